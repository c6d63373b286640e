"""Every data set that eyeswap knows, for training and for evaluation, by name; and which of its files are on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eyeswap.data.official.families import FAMILIES, Family, Source
from eyeswap.data.official.layout import find
from eyeswap.data.official.training_sets import TRAINING_SETS, TrainingSet
from eyeswap.errors import SpecError, nearest

DataSet = Family | TrainingSet


@dataclass(frozen=True)
class FoundFile:
    """A source on disk.

    Attributes:
        source: what was looked for.
        path: relative to the root.
        exists: whether it is there.
        num_bytes: size of a file; None for a folder of images, or before it was weighed.
        sha256: of a file.
        version: which known version it is, if any.
    """

    source: Source
    path: str
    exists: bool
    num_bytes: int | None = None
    sha256: str | None = None
    version: str | None = None


def sets_named(name: str) -> list[DataSet]:
    """Return the data sets that a name stands for: a set, a benchmark of one, or ``all``.

    Raises:
        SpecError: if there is none of that name.
    """
    found: list[DataSet] = [family for family in FAMILIES.values() if name in ("all", family.name, *family.benchmarks)]
    found += [one for one in TRAINING_SETS.values() if name in ("all", one.name)]
    if not found:
        benchmarks = (benchmark for family in FAMILIES.values() for benchmark in family.benchmarks)
        names = dict.fromkeys(["all", *FAMILIES, *benchmarks, *TRAINING_SETS])
        raise SpecError(f"data set {name!r} does not exist. {nearest(name, names)}")
    return found


def look(data_set: DataSet, root: Path) -> list[FoundFile]:
    """Return which sources of a data set are on disk; reads nothing."""
    return [_look_for(source, data_set.name, root) for source in data_set.sources]


def _look_for(source: Source, folder: str, root: Path) -> FoundFile:
    path = find(root, folder, *source.names)
    exists = path.is_dir() if source.is_images else path.is_file()
    return FoundFile(source, path.relative_to(root).as_posix(), exists)
