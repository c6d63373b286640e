"""The seal of a finished run: size and sha256 of its records, weights, predictions and scores.

It shows whether files have changed since the run ended. Anyone who can write to the folder can write the seal too, so
the audit also checks the records against sources outside the run (`eyeswap.audit.records`) and against each other
(`eyeswap.audit.answers`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from eyeswap.errors import DataError
from eyeswap.files import read_json, sha256_of, write_json
from eyeswap.runs.folder import RunFolder

MAX_NAME_BYTES = 255  # of a file of a run, below its folder
LARGE_BYTES = 1 << 28  # larger files are compared by size only, so that an audit takes seconds


def write_seal(run_dir: Path) -> None:
    """Write the seal of a finished run."""
    files = RunFolder(run_dir)
    about = {
        path.relative_to(run_dir).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files.sealed_files()
    }
    write_json(files.seal, about)


def changed_files(run_dir: Path, among: Container[str] | None = None) -> Iterator[str]:
    """Yield the sealed files that exist but differ from the seal.

    Args:
        run_dir: the run's folder.
        among: names of the files to read; by default all.

    Raises:
        DataError: if the seal is damaged.
    """
    for name, about in _read(run_dir).items():
        file = run_dir / name
        if (among is None or name in among) and file.is_file() and not _is_same(file, about):
            yield name


def missing_files(run_dir: Path) -> Iterator[str]:
    """Yield the sealed files that are missing; those of the model may be, because archives do not contain them.

    Raises:
        DataError: if the seal is damaged.
    """
    model = RunFolder(run_dir).model
    for name in _read(run_dir):
        file = run_dir / name
        if not file.is_file() and model not in file.parents:
            yield name


def unsealed_files(run_dir: Path) -> Iterator[str]:
    """Yield the files of a finished run that its seal does not list.

    Raises:
        DataError: if the seal is damaged.
    """
    seal = _read(run_dir)
    for file in RunFolder(run_dir).sealed_files():
        name = file.relative_to(run_dir).as_posix()
        if name not in seal:
            yield name


def sealed_digests(run_dir: Path, folder: Path, pattern: str) -> dict[str, str]:
    """Return the sha256 of the sealed files in a folder of the run whose names fit a pattern; of none without a seal.

    Raises:
        DataError: if the seal is damaged.
    """
    if not RunFolder(run_dir).seal.is_file():
        return {}
    inside = folder.relative_to(run_dir)
    return {
        Path(name).name: str(about.get("sha256"))
        for name, about in _read(run_dir).items()
        if Path(name).parent == inside and Path(name).match(pattern)
    }


def _read(run_dir: Path) -> dict[str, dict[str, Any]]:
    path = RunFolder(run_dir).seal
    seal = read_json(path)
    if not isinstance(seal, dict):
        raise DataError(f"{path}: expected an object")
    for name, about in seal.items():
        is_outside = (
            ".." in Path(name).parts
            or Path(name).is_absolute()
            or len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES
        )
        if is_outside or not isinstance(about, dict):
            raise DataError(f"{path}: {name}: not a file of a run")
    return seal


def _is_same(file: Path, about: dict[str, Any]) -> bool:
    size = file.stat().st_size
    return size == about.get("bytes") and (size > LARGE_BYTES or sha256_of(file) == about.get("sha256"))
