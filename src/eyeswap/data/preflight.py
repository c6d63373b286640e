"""Look at all images of instruction data before hours are spent on them.

Training meets a missing or broken image when its turn comes, which may be hour nine. Here every image is looked for and
decoded beforehand, and the records whose image can be used are told from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyeswap.data.images import bad_images, missing_images, other_endings
from eyeswap.data.instruction import Instruction
from eyeswap.progress import Progress

MISSING = "no such file"


@dataclass(frozen=True)
class Source:
    """One folder of images.

    Attributes:
        folder: relative to the root.
        num_records: records that show an image of it.
        num_images: different images among them.
        missing: images that are not on disk.
        undecodable: images that are on disk and cannot be read.
    """

    folder: str
    num_records: int
    num_images: int
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]


@dataclass(frozen=True)
class Preflight:
    """What was found of instruction data.

    Attributes:
        usable: the records that can be used, in file order: text-only ones, and those whose image is there.
        unusable_images: each image that is missing or cannot be decoded, with the reason.
        sources: the folders of images, in order of first use.
        num_records: records looked at.
        num_text_only: records without image.
        num_turns: questions with their answers, over all records.
        decoded: whether images were decoded, and not only looked for.
    """

    usable: tuple[Instruction, ...]
    unusable_images: dict[str, str]
    sources: tuple[Source, ...]
    num_records: int
    num_text_only: int
    num_turns: int
    decoded: bool

    @property
    def num_skipped(self) -> int:
        """Records that cannot be used because of their image."""
        return self.num_records - len(self.usable)


def inspect_images(
    instructions: Sequence[Instruction],
    root: Path,
    decode: bool = True,
    workers: int | None = None,
    board: Progress | None = None,
) -> Preflight:
    """Look for the image of every record, and decode it.

    Args:
        instructions: the records.
        root: folder that their image paths are relative to.
        decode: decode every image once; without it images are only looked for, which takes seconds.
        workers: processes that decode; None takes one for each processor.
        board: where progress is shown.

    Raises:
        EnvironmentProblem: if a process that decodes images was ended from outside.
    """
    shown = [instruction.image for instruction in instructions if instruction.image is not None]
    images = list(dict.fromkeys(shown))
    missing = dict.fromkeys(missing_images(root, images), MISSING)
    missing |= {
        image: f"{MISSING}, but {name}: convert it" for image, name in other_endings(root, list(missing)).items()
    }
    undecodable = {}
    if decode:
        here = {image: None for image in images if image not in missing}
        undecodable = bad_images(root, here, "decode images", board, workers)
    reasons = missing | undecodable
    unusable = {image: reasons[image] for image in images if image in reasons}
    return Preflight(
        usable=tuple(one for one in instructions if one.image not in unusable),
        unusable_images=unusable,
        sources=_sources(shown, missing, undecodable),
        num_records=len(instructions),
        num_text_only=len(instructions) - len(shown),
        num_turns=sum(len(one.messages) // 2 for one in instructions),
        decoded=decode,
    )


def _sources(shown: Sequence[str], missing: dict[str, str], undecodable: dict[str, str]) -> tuple[Source, ...]:
    """Sort the images of records (one entry a record) by folder."""
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
