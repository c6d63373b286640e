"""Pre-flight check of all images of instruction data, before hours are spent on training.

Training would notice a missing or broken image only when it needs it, perhaps after nine hours. Here every image is
located and decoded in advance, and records with usable images are separated from the others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from eyeswap.data.instruction import Instruction
from eyeswap.errors import DataError, EnvironmentProblem
from eyeswap.images import open_image, traits
from eyeswap.processes import worker_pool
from eyeswap.progress import Progress

MISSING = "no such file"


@dataclass(frozen=True)
class Source:
    """One folder of images.

    Attributes:
        folder: relative to the root.
        num_records: records with an image in this folder.
        num_images: distinct images among them.
        missing: images that are not on disk.
        undecodable: images that are on disk but cannot be decoded.
    """

    folder: str
    num_records: int
    num_images: int
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]


@dataclass(frozen=True)
class Preflight:
    """The result of checking the images of instruction data.

    Attributes:
        usable: the usable records in file order: text only, or with an image that can be used.
        unusable_images: the reason for each image that is missing or cannot be decoded.
        sources: the image folders, in order of first use.
        num_records: number of records.
        num_text_only: records without image.
        num_turns: question-answer pairs over all records.
        decoded: whether images were decoded, and not only located.
        traits: number of decoded images with each of `eyeswap.images.traits`.
    """

    usable: tuple[Instruction, ...]
    unusable_images: dict[str, str]
    sources: tuple[Source, ...]
    num_records: int
    num_text_only: int
    num_turns: int
    decoded: bool
    traits: Mapping[str, int]

    @property
    def num_skipped(self) -> int:
        """Number of records with an unusable image."""
        return self.num_records - len(self.usable)


def inspect_images(
    instructions: Sequence[Instruction],
    root: Path,
    decode: bool = True,
    workers: int | None = None,
    board: Progress | None = None,
) -> Preflight:
    """Locate and decode the image of every record.

    Args:
        instructions: the records.
        root: folder that their image paths are relative to.
        decode: whether to decode every image; only locating them takes seconds.
        workers: number of decoding processes; None for one per usable processor.
        board: where progress is shown.

    Raises:
        EnvironmentProblem: if a decoding process was killed.
    """
    shown = [instruction.image for instruction in instructions if instruction.image is not None]
    images = list(dict.fromkeys(shown))
    missing = dict.fromkeys(missing_images(root, images), MISSING)
    missing |= {
        image: f"{MISSING}, but {name}: convert it" for image, name in other_endings(root, list(missing)).items()
    }
    decoded = DecodedImages()
    if decode:
        on_disk = {image: None for image in images if image not in missing}
        decoded = decode_images(root, on_disk, "decode images", board, workers)
    undecodable = decoded.bad
    reasons = missing | undecodable
    unusable = {image: reasons[image] for image in images if image in reasons}
    return Preflight(
        usable=tuple(instruction for instruction in instructions if instruction.image not in unusable),
        unusable_images=unusable,
        sources=_sources(shown, missing, undecodable),
        num_records=len(instructions),
        num_text_only=len(instructions) - len(shown),
        num_turns=sum(len(instruction.messages) // 2 for instruction in instructions),
        decoded=decode,
        traits=decoded.traits,
    )


def _sources(shown: Sequence[str], missing: dict[str, str], undecodable: dict[str, str]) -> tuple[Source, ...]:
    """Group the images of records (one entry per record) by folder."""
    records: dict[str, list[str]] = {}
    for image in shown:
        records.setdefault(image.rpartition("/")[0] or ".", []).append(image)
    return tuple(
        Source(
            folder,
            len(of_folder),
            len(images := list(dict.fromkeys(of_folder))),
            tuple(image for image in images if image in missing),
            tuple(image for image in images if image in undecodable),
        )
        for folder, of_folder in records.items()
    )


_CHUNK = 64  # images that a worker process takes at a time
_FEW = 200  # so many images are decoded faster than worker processes start


def missing_images(root: Path, images: Sequence[str]) -> list[str]:
    """Return the images that are not files below ``root``; each folder is listed only once."""
    names: dict[Path, set[str]] = {}
    missing = []
    for image in images:
        folder, _, name = image.rpartition("/")
        path = root / folder
        if path not in names:
            names[path] = {entry.name for entry in os.scandir(path) if _is_file(entry)} if path.is_dir() else set()
        if name not in names[path]:
            missing.append(image)
    return missing


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def other_endings(root: Path, images: Sequence[str]) -> dict[str, str]:
    """Return for each missing image that exists with another suffix the name of that file."""
    names: dict[Path, dict[str, str]] = {}
    other_names = {}
    for image in images:
        path = root / image
        if path.parent not in names:
            files = path.parent.iterdir() if path.parent.is_dir() else ()
            names[path.parent] = {file.stem: file.name for file in files}
        if path.stem in names[path.parent]:
            other_names[image] = names[path.parent][path.stem]
    return other_names


@dataclass(frozen=True)
class DecodedImages:
    """What decoding a set of images showed.

    Attributes:
        bad: each image that cannot be read or differs from its stated size, with the reason.
        traits: how many of the others have each of `eyeswap.images.traits`.
    """

    bad: dict[str, str] = field(default_factory=dict)
    traits: Counter[str] = field(default_factory=Counter)


def decode_images(
    root: Path,
    sizes: Mapping[str, tuple[int, int] | None],
    title: str = "open images",
    board: Progress | None = None,
    workers: int | None = None,
) -> DecodedImages:
    """Decode images; find those that cannot be used, and count traits that other tools treat differently.

    Args:
        root: folder that image paths are relative to.
        sizes: stated (width, height) of each image in pixels; None if not stated.
        title: title of the progress bar.
        board: where progress is shown.
        workers: number of decoding processes; None for one per usable processor.

    Raises:
        EnvironmentProblem: if a decoding process was killed.
    """
    task = board.task(title, len(sizes)) if board else None
    decoded = DecodedImages()
    try:
        for image, reason, image_traits in _looks(partial(_look, root), sizes.items(), len(sizes), workers):
            if reason:
                decoded.bad[image] = reason
            decoded.traits.update(image_traits)
            if task:
                task.advance()
    except BrokenProcessPool:
        raise EnvironmentProblem(
            f"{root}: a process that decodes images was killed, perhaps for lack of memory; run this again"
        ) from None
    return decoded


def describe_traits(counts: Mapping[str, int]) -> str:
    """Return how many images have traits that other tools read differently, in one line; empty if none has."""
    parts = [f"{counts[name]:,} {meaning}" for name, meaning in _TRAITS.items() if counts.get(name)]
    return f"images read as stored: {', '.join(parts)}" if parts else ""


_TRAITS = {
    "turned": "with an EXIF orientation (not turned upright)",
    "transparent": "with transparency (dropped)",
    "16-bit": "of 16 bits (scaled to 8)",
}
Stated = tuple[str, tuple[int, int] | None]
Look = tuple[str, str, tuple[str, ...]]


def _looks(look: partial[Look], images: Iterable[Stated], count: int, workers: int | None) -> Iterator[Look]:
    if count < _FEW:
        yield from map(look, images)
        return
    with worker_pool(workers) as pool:
        yield from pool.map(look, images, chunksize=_CHUNK)


def _look(root: Path, image_and_size: Stated) -> Look:
    """Return an image, why it cannot be used (empty if it can), and its traits."""
    image, stated = image_and_size
    path = root / image
    try:
        size = open_image(path).size
    except DataError as error:
        return image, str(error).removeprefix(f"{path}: "), ()
    differs = stated is not None and stated != size
    reason = f"is {size[0]}x{size[1]}, stated {stated[0]}x{stated[1]}" if stated and differs else ""
    return image, reason, () if reason else traits(path)
