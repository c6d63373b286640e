"""Detection of the frame of the boxes in an instruction file, by comparison with annotations.

Each region in the file is matched with the annotated box that has the same text and image. On an image that is not
square, that box has different numbers in the original image and in the image padded to a square, and the numbers in
the file fit one of the two.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eyeswap.data.formats.boxes import Box, find_box
from eyeswap.data.formats.record import Record
from eyeswap.data.instruction import Instruction
from eyeswap.data.json_list import read_json_list
from eyeswap.data.official.layout import REFER_AUTHORS, find, read_refcoco_files
from eyeswap.errors import MissingFileError
from eyeswap.geometry import Placement
from eyeswap.images import image_size

FileBoxFrame = Literal["original", "padded-square"]
Region = tuple[int, str]  # image id, words
Annotated = tuple[Box, tuple[int, int]]  # box in pixels, size of the image

_ASKS_BOX, _GIVES_BOX = "region this sentence describes:", "short description for this region:"
_COCO = re.compile(r"(?:COCO_[a-z0-9]+_)?(\d{12})")
_TOLERANCE = 0.0151  # covers two decimals under any rounding, and a pixel
_APART = 0.05  # frames whose numbers differ by less cannot be told apart
_FEWEST, _AGREEING = 10, 0.95
_SIZES = "image_data.json"
ANNOTATIONS = {
    "RefCOCO": "download/refcoco",
    "Visual Genome": "download/visual-genome/region_descriptions.json",
}


@dataclass(frozen=True)
class BoxFrames:
    """How the boxes in one part of an instruction file agree with annotations.

    Attributes:
        source: name of the annotated data set.
        at_hand: whether its annotations are on disk.
        num_boxes: number of boxes in this part.
        num_joined: boxes matched with an annotated box on an image on which the frames differ.
        fits: number of matched boxes by the frame that they fit; ``""`` for neither.
    """

    source: str
    at_hand: bool
    num_boxes: int
    num_joined: int
    fits: Mapping[str, int]

    @property
    def frame(self) -> FileBoxFrame | None:
        """The frame of the boxes; None if too few were matched, or they disagree."""
        frames: tuple[FileBoxFrame, ...] = ("original", "padded-square")
        for frame in frames:
            if self.fits.get(frame, 0) >= max(_FEWEST, _AGREEING * self.num_joined):
                return frame
        return None

    def __str__(self) -> str:
        about = f"{self.num_boxes:,} boxes of {self.source}"
        if not self.at_hand:
            return f"{about}: frame unknown, {ANNOTATIONS[self.source]} is not on disk"
        if not self.num_joined:
            return f"{about}: frame unknown, none matches an annotated box of an image that is not square"
        counts = ", ".join(f"{count:,} fit {frame or 'neither'}" for frame, count in self.fits.items())
        verdict = f"frame {self.frame}" if self.frame else "frame undecided"
        return f"{about}: {verdict} (of {self.num_joined:,} that distinguish frames, {counts})"

    def as_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        fits = {frame or "neither": count for frame, count in self.fits.items()}
        counts = {"boxes": self.num_boxes, "joined": self.num_joined, "fits": fits}
        return {"source": self.source, "at_hand": self.at_hand, "frame": self.frame, **counts}


def box_frames(records: Sequence[Instruction], root: Path, images: Path | None = None) -> list[BoxFrames]:
    """Compare the boxes of an instruction file with RefCOCO's and Visual Genome's annotations.

    Args:
        records: the file's records.
        root: the data root, with RefCOCO in ``download/refcoco`` and Visual Genome's ``region_descriptions.json`` in
            ``download/visual-genome``. Image sizes come from ``image_data.json`` beside it, or from the images.
        images: folder to which the records' image paths are relative; the data root by default.

    Returns:
        One entry for each part of the file that has boxes.

    Raises:
        DataError: naming file and row of a malformed annotation.
    """
    described: dict[str, dict[Region, list[Box]]] = {"RefCOCO": defaultdict(list), "Visual Genome": defaultdict(list)}
    paths: dict[int, Path] = {}
    for record in records:
        if record.image is None:
            continue
        source, image_id = _source(record.image)
        if source is not None:
            paths[image_id] = (images or root) / record.image
            for words, box in _regions(record.messages):
                described[source][image_id, words].append(box)
    parts = []
    for source, regions in described.items():
        if regions:
            annotated = _refcoco(root) if source == "RefCOCO" else _visual_genome(root, regions, paths)
            parts.append(_compared(source, regions, annotated))
    return parts


def _source(image: str) -> tuple[str | None, int]:
    """Return the annotated data set that an image belongs to, and its id there."""
    path = Path(image)
    coco = _COCO.fullmatch(path.stem)
    if coco:
        return "RefCOCO", int(coco[1])
    if path.parent.name.startswith("VG_100K") and path.stem.isascii() and path.stem.isdecimal():
        return "Visual Genome", int(path.stem)
    return None, 0


def _regions(messages: Sequence[str]) -> Iterator[tuple[str, Box]]:
    """Yield the normalised text and the box of each region that a conversation asks for or describes."""
    for question, answer in zip(messages[::2], messages[1::2], strict=False):
        _, asks, expression = question.partition(_ASKS_BOX)
        _, gives, region = question.partition(_GIVES_BOX)
        box = find_box(answer if asks else region) if asks or gives else None
        if box is not None:
            yield _words(expression if asks else answer), box


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _refcoco(root: Path) -> dict[Region, list[Annotated]] | None:
    """Return the training boxes of those of RefCOCO's three sets that are on disk; None if there are none."""
    annotated: dict[Region, list[Annotated]] = defaultdict(list)
    for name in REFER_AUTHORS:
        try:
            examples = read_refcoco_files(root, "train", [name])
        except MissingFileError:
            continue
        for example in examples:
            if example.box_px is not None and example.size is not None:
                annotated[int(example.image_id), _words(example.question)].append((example.box_px, example.size))
    return annotated or None


def _visual_genome(
    root: Path, regions: Mapping[Region, Sequence[Box]], paths: Mapping[int, Path]
) -> dict[Region, list[Annotated]] | None:
    """Return Visual Genome's boxes of the given regions; None if its file is not on disk."""
    path = find(root, "visual-genome", "region_descriptions.json")
    if not path.is_file():
        return None
    wanted = {image_id for image_id, _ in regions}
    sizes = _visual_genome_sizes(path.with_name(_SIZES), wanted)
    annotated: dict[Region, list[Annotated]] = defaultdict(list)
    for number, row in enumerate(read_json_list(path), start=1):
        record = Record.of(row, f"{path}: row {number}")
        image_id = record.integer("id")
        if image_id not in wanted:
            continue
        size = sizes.get(image_id) or image_size(paths[image_id])
        for item in record.items("regions") if size is not None else ():
            region = Record.of(item, f"{record.where}: region")
            key = image_id, _words(region.text("phrase"))
            if key in regions and size is not None:
                x, y, width, height = region.box(
                    "x", [region.values.get(side) for side in ("x", "y", "width", "height")]
                )
                annotated[key].append(((x, y, x + width, y + height), size))
    return annotated


def _visual_genome_sizes(path: Path, wanted: set[int]) -> dict[int, tuple[int, int]]:
    if not path.is_file():
        return {}
    rows = (Record.of(row, f"{path}: row {number}") for number, row in enumerate(read_json_list(path), start=1))
    return {
        row.integer("image_id"): (row.integer("width"), row.integer("height"))
        for row in rows
        if row.integer("image_id") in wanted
    }


def _compared(
    source: str, regions: Mapping[Region, Sequence[Box]], annotated: Mapping[Region, Sequence[Annotated]] | None
) -> BoxFrames:
    num_boxes = sum(map(len, regions.values()))
    if annotated is None:
        return BoxFrames(source, False, num_boxes, 0, {})
    all_fits = (_fit(box, annotated.get(key, ())) for key, boxes in regions.items() for box in boxes)
    counts = Counter(fit for fit in all_fits if fit is not None)
    fits = {frame: counts[frame] for frame in ("original", "padded-square", "") if counts[frame]}
    return BoxFrames(source, True, num_boxes, counts.total(), fits)


def _fit(box: Box, candidates: Sequence[Annotated]) -> str | None:
    """Return the frame in which a box equals an annotated one, ``""`` for neither; None if it cannot be decided."""
    fits: set[str] = set()
    is_decisive = False
    for pixels, size in candidates:
        if min(size) <= 0:
            continue
        numbers = {
            "original": Placement.of_image(size).convert(pixels, "image", "canvas-unit"),
            "padded-square": Placement.of_padded_square(size).convert(pixels, "image", "canvas-unit"),
        }
        if _distance(*numbers.values()) > _APART:
            is_decisive = True
            fits |= {frame for frame, annotated in numbers.items() if _distance(box, annotated) <= _TOLERANCE}
    if not is_decisive or len(fits) > 1:
        return None
    return fits.pop() if fits else ""


def _distance(first: Box, second: Box) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))
