"""Look at the benchmark files on disk: are they there, whole, as published? Then write the index files.

Offline: what is missing is named with the place where it is published, and nothing is downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyeswap.data.formats import Example
from eyeswap.data.official.catalogue import FoundFile, look
from eyeswap.data.official.families import Family
from eyeswap.data.official.reference_index import write_index
from eyeswap.data.official.subsets import shuffled, subsample
from eyeswap.data.preflight import bad_images, missing_images
from eyeswap.errors import DataError, MissingFileError
from eyeswap.files import digest, sha256_of, write_json
from eyeswap.progress import Progress

SUBSAMPLED_SIZES = {"vqa-v2": (16_384,)}  # which the published suite evaluates too


@dataclass
class Inspection:
    """What was found of one family.

    Attributes:
        family: whose files.
        files: the sources on disk.
        problem: why the files cannot be read, in one line; empty if they can.
        counts: examples of each part.
        splits: examples of every split that the files carry, where one file holds several.
        num_images: images that the examples are about.
        missing_images: those that are not on disk.
        bad_images: those that are no readable image or have another size than stated, and why; None if not opened.
        written: index files and what became of each.
    """

    family: Family
    files: list[FoundFile]
    problem: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    num_images: int = 0
    missing_images: list[str] = field(default_factory=list)
    bad_images: dict[str, str] | None = None
    written: dict[str, str] = field(default_factory=dict)

    @property
    def published(self) -> dict[str, int]:
        """The published counts that are nearest to what was found."""
        found = sum(self.counts.values())
        versions = [dict(counts) for counts in self.family.counts]
        return min(versions, key=lambda counts: abs(sum(counts.values()) - found))

    @property
    def complaints(self) -> list[str]:
        """What stands between these files and the published set, one line each; empty if nothing does."""
        missing = [file.path for file in self.files if not file.exists]
        lines = [f"not on disk: {', '.join(missing)}"] if missing else []
        if self.problem:
            return [*lines, self.problem]
        if not self.counts:
            return lines
        published = self.published
        found = {"": sum(self.counts.values())} if "" in published else self.counts
        for part in dict.fromkeys([*published, *found]):
            have, want = found.get(part, 0), published.get(part, 0)
            if have != want:
                lines.append(f"{have:,} examples{' of ' + part if part else ''}, published are {want:,}")
        if self.family.num_images not in (None, self.num_images):
            lines.append(f"about {self.num_images:,} images, published are {self.family.num_images:,}")
        if self.missing_images:
            lines.append(f"{len(self.missing_images):,} images are not on disk: {_first(self.missing_images)}")
        if self.bad_images:
            reasons = [f"{path} ({reason})" for path, reason in self.bad_images.items()]
            lines.append(f"{len(reasons):,} images are bad: {_first(reasons)}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "family": self.family.name,
            "title": self.family.title,
            "benchmarks": list(self.family.benchmarks),
            "about": self.family.about,
            "licence": self.family.licence,
            "complete": not self.complaints,
            "complaints": self.complaints,
            "files": [
                {
                    "path": file.path,
                    "exists": file.exists,
                    "bytes": file.num_bytes,
                    "sha256": file.sha256,
                    "version": file.version,
                    "url": file.source.url,
                    "download_size": file.source.size or None,
                }
                for file in self.files
            ],
            "examples": self.counts,
            "published_examples": self.published,
            "splits": self.splits,
            "images": self.num_images,
            "published_images": self.family.num_images,
            "missing_images": self.missing_images,
            "bad_images": self.bad_images,
            "index": self.written,
        }


def inspect(
    family: Family,
    root: Path,
    slim_sizes: Sequence[int] | None = None,
    open_images: bool = False,
    board: Progress | None = None,
) -> Inspection:
    """Read a family's files and compare them with what was published; write the index if asked to.

    Args:
        family: which.
        root: the data root.
        slim_sizes: sizes of the slim sets to write, with the full set; None writes nothing.
        open_images: decode every image, and compare its size with the stated one.
        board: shows how many images are opened.
    """
    found = Inspection(family, [_weigh(file, root) for file in look(family, root)])
    try:
        examples = family.read_files(root, "eval")
        found.splits = family.splits(root)
    except MissingFileError:
        return found  # which file it is the list of files says
    except DataError as error:
        found.problem = str(error)
        return found
    found.counts = dict(Counter(family.part(example) for example in examples))
    sizes = {example.image: example.size for example in examples}
    found.num_images = len(sizes)
    found.missing_images = missing_images(root, list(sizes))
    if open_images:
        absent = set(found.missing_images)
        here = {image: size for image, size in sizes.items() if image not in absent}
        found.bad_images = bad_images(root, here, f"{family.name}: open images", board)
    if slim_sizes is not None:
        found.written = write_index(family, root, examples, slim_sizes)
        _write_summary(found, root, examples, slim_sizes)
    return found


def _weigh(file: FoundFile, root: Path) -> FoundFile:
    if file.source.is_images or not file.exists:
        return file
    path = root / file.path
    sha256 = sha256_of(path)
    return FoundFile(file.source, file.path, True, path.stat().st_size, sha256, file.source.digests.get(sha256))


def _write_summary(found: Inspection, root: Path, examples: Sequence[Example], sizes: Sequence[int]) -> None:
    """Write ``datasets/<family>/eyeswap.json``: what was prepared from which bytes; digests of the ids in order."""
    part = found.family.part
    sets = {"full": shuffled(examples)} | {f"slim-{size}": subsample(examples, size, part) for size in sizes}
    ids = {name: [example.example_id for example in chosen] for name, chosen in sets.items()}
    summary = found.as_json() | {
        "sets": {name: {"examples": len(chosen), "digest": digest(chosen)} for name, chosen in ids.items()}
    }
    write_json(root / "datasets" / found.family.name / "eyeswap.json", summary)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
