"""Checking the benchmark files on disk against the published ones, and writing the index files.

Nothing is downloaded: missing files are listed with the place where they are published.
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
from eyeswap.data.preflight import decode_images, missing_images
from eyeswap.errors import DataError, MissingFileError
from eyeswap.files import digest, sha256_of, write_json
from eyeswap.progress import Progress

SUBSAMPLED_SIZES = {"vqa-v2": (16_384,)}  # evaluated by the published suite too


@dataclass
class Inspection:
    """The result of checking one family.

    Attributes:
        family: the family.
        files: its sources on disk.
        problem: why the files cannot be read, in one line; empty if they can.
        counts: number of examples of each part.
        splits: number of examples of every split, for files that contain several.
        num_images: number of images that the examples are about.
        missing_images: images that are not on disk.
        bad_images: the reason for each image that cannot be read or does not have its stated size; None if not opened.
        traits: number of opened images with each of `eyeswap.images.traits`.
        written: for each index file whether it was written or kept.
    """

    family: Family
    files: list[FoundFile]
    problem: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    num_images: int = 0
    missing_images: list[str] = field(default_factory=list)
    bad_images: dict[str, str] | None = None
    traits: dict[str, int] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    @property
    def published(self) -> dict[str, int]:
        """The counts of the published version that is nearest to these files."""
        total = sum(self.counts.values())
        versions = [dict(counts) for counts in self.family.counts]
        return min(versions, key=lambda counts: abs(sum(counts.values()) - total))

    @property
    def complaints(self) -> list[str]:
        """The differences between these files and the published set, one line each."""
        missing = [file.path for file in self.files if not file.exists]
        lines = [f"not on disk: {', '.join(missing)}"] if missing else []
        if self.problem:
            return [*lines, self.problem]
        if not self.counts:
            return lines
        published = self.published
        counts = {"": sum(self.counts.values())} if "" in published else self.counts
        for part in dict.fromkeys([*published, *counts]):
            have, want = counts.get(part, 0), published.get(part, 0)
            if have != want:
                lines.append(f"{have:,} examples{' of ' + part if part else ''}, published {want:,}")
        if self.family.num_images not in (None, self.num_images):
            lines.append(f"about {self.num_images:,} images, published {self.family.num_images:,}")
        if self.missing_images:
            lines.append(f"{len(self.missing_images):,} images are not on disk: {_first(self.missing_images)}")
        if self.bad_images:
            reasons = [f"{path} ({reason})" for path, reason in self.bad_images.items()]
            lines.append(f"{len(reasons):,} images are bad: {_first(reasons)}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
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
            "image_traits": self.traits,
            "index": self.written,
        }


def inspect(
    family: Family,
    root: Path,
    slim_sizes: Sequence[int] | None = None,
    open_images: bool = False,
    board: Progress | None = None,
) -> Inspection:
    """Read a family's files and compare them with the published ones; write the index files on request.

    Args:
        family: the family.
        root: the data root.
        slim_sizes: sizes of the slim sets to write beside the full set; None writes nothing.
        open_images: whether to decode every image and compare its size with the stated one.
        board: where progress is shown.
    """
    inspection = Inspection(family, [_with_digest(file, root) for file in look(family, root)])
    try:
        examples = family.read_files(root, "eval")
        inspection.splits = family.splits(root)
    except MissingFileError:
        return inspection  # the list of files shows which one
    except DataError as error:
        inspection.problem = str(error)
        return inspection
    inspection.counts = dict(Counter(family.part(example) for example in examples))
    sizes = {example.image: example.size for example in examples}
    inspection.num_images = len(sizes)
    inspection.missing_images = missing_images(root, list(sizes))
    if open_images:
        missing = set(inspection.missing_images)
        on_disk = {image: size for image, size in sizes.items() if image not in missing}
        decoded = decode_images(root, on_disk, f"{family.name}: open images", board)
        inspection.bad_images, inspection.traits = decoded.bad, dict(decoded.traits)
    if slim_sizes is not None:
        inspection.written = write_index(family, root, examples, slim_sizes)
        _write_summary(inspection, root, examples, slim_sizes)
    return inspection


def _with_digest(file: FoundFile, root: Path) -> FoundFile:
    if file.source.is_images or not file.exists:
        return file
    path = root / file.path
    sha256 = sha256_of(path)
    return FoundFile(file.source, file.path, True, path.stat().st_size, sha256, file.source.digests.get(sha256))


def _write_summary(inspection: Inspection, root: Path, examples: Sequence[Example], sizes: Sequence[int]) -> None:
    """Write ``datasets/<family>/eyeswap.json``: the inspection, and for each set a digest of its ids in order."""
    part = inspection.family.part
    sets = {"full": shuffled(examples)} | {f"slim-{size}": subsample(examples, size, part) for size in sizes}
    ids = {name: [example.example_id for example in chosen] for name, chosen in sets.items()}
    summary = inspection.as_json() | {
        "sets": {name: {"examples": len(chosen), "digest": digest(chosen)} for name, chosen in ids.items()}
    }
    write_json(root / "datasets" / inspection.family.name / "eyeswap.json", summary)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
