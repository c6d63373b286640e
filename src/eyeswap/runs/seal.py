"""Are a run's files as they were when it ended? A seal over them: size and sha256 of records, weights, answers, scores.

Whoever can write the folder can write the seal too, so the audit also holds the records against what does not lie in
the run, see `eyeswap.audit.records`, and against each other, see `eyeswap.audit.answers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyeswap.errors import DataError
from eyeswap.files import read_json, sha256_of, write_json
from eyeswap.runs.folder import RunFolder

LARGE_BYTES = 1 << 28  # files beyond this are compared by size alone, so that an audit takes seconds


def write_seal(run_dir: Path) -> None:
    """Take down size and sha256 of everything that a finished run consists of."""
    files = RunFolder(run_dir)
    about = {
        path.relative_to(run_dir).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files.sealed_files()
    }
    write_json(files.seal, about)


def changed_files(run_dir: Path) -> Iterator[str]:
    """Yield the sealed files that are here and are others.

    Raises:
        DataError: if the seal is damaged.
    """
    for name, about in _read(run_dir).items():
        file = run_dir / name
        if file.is_file() and not _is_same(file, about):
            yield name


def missing_files(run_dir: Path) -> Iterator[str]:
    """Yield the sealed files that are gone; those of the model may have stayed at home.

    Raises:
        DataError: if the seal is damaged.
    """
    model = RunFolder(run_dir).model
    for name in _read(run_dir):
        file = run_dir / name
        if not file.is_file() and model not in file.parents:
            yield name


def unsealed_files(run_dir: Path) -> Iterator[str]:
    """Yield the files of a finished run that its seal does not name.

    Raises:
        DataError: if the seal is damaged.
    """
    seal = _read(run_dir)
    for file in RunFolder(run_dir).sealed_files():
        name = file.relative_to(run_dir).as_posix()
        if name not in seal:
            yield name


def _read(run_dir: Path) -> dict[str, dict[str, Any]]:
    path = RunFolder(run_dir).seal
    seal = read_json(path)
    if not isinstance(seal, dict):
        raise DataError(f"{path}: expected an object")
    for name, about in seal.items():
        if ".." in Path(name).parts or Path(name).is_absolute() or not isinstance(about, dict):
            raise DataError(f"{path}: {name}: no file of a run")
    return seal


def _is_same(file: Path, about: dict[str, Any]) -> bool:
    size = file.stat().st_size
    return size == about.get("bytes") and (size > LARGE_BYTES or sha256_of(file) == about.get("sha256"))
