"""Are a run's files as they were when it ended? A seal over them: size and sha256 of records, weights, answers, scores.

Whoever can write the folder can write the seal too, so the audit also holds the records against what does not lie in
the run, see `eyeswap.audit.records`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    """Yield the sealed files that are here and are others; files that were left behind are no change.

    Raises:
        DataError: if the seal is damaged.
    """
    path = RunFolder(run_dir).seal
    seal = read_json(path)
    if not isinstance(seal, dict):
        raise DataError(f"{path}: expected an object")
    for name, about in seal.items():
        file = run_dir / name
        if ".." in Path(name).parts or Path(name).is_absolute() or not isinstance(about, dict):
            raise DataError(f"{path}: {name}: no file of a run")
        if not file.is_file():
            continue
        size = file.stat().st_size
        if size != about.get("bytes") or (size <= LARGE_BYTES and sha256_of(file) != about.get("sha256")):
            yield name
