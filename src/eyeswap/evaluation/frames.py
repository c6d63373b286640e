"""Frames: what the four numbers of a box are fractions of.

* ``original``: of the image as it is. The published evaluation suite scores there.
* ``padded-square``: of the image padded to a square in the middle, in exact halves; LLaVA's training text is there.
* ``canvas``: of the canvas that the model sees.
* ``study``: what the study's own repository scores in. It goes by the name of a backbone's resize strategy: the padded
  square for ``letterbox``, wherever the canvas truly pads, a crop of the middle for ``resize-crop``, the original image
  for every other name.

Each frame is a `Placement` of the image, so that boxes go to and fro by the same map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

from pydantic import ValidationError

from eyeswap.backbones import catalog
from eyeswap.data.formats.boxes import BOX_PATTERN, find_box
from eyeswap.data.instruction import Instruction
from eyeswap.errors import SpecError
from eyeswap.evaluation.boxes import clipped, format_box
from eyeswap.geometry import ImageGeometry, Placement
from eyeswap.images import image_size
from eyeswap.recipe import BoxFrame, TestBoxFrame
from eyeswap.runs.record import BackboneRecord

TEST_BOX_FRAMES: tuple[TestBoxFrame, ...] = get_args(TestBoxFrame)
FRAME_TITLES: dict[str, str] = {
    "original": "original image",
    "study": "frame of the study's repository",
    "padded-square": "padded square",
    "canvas": "canvas",
}
_NATIVE_CROPS = {"vmamba": "vmamba-classification", "mambavision": "mambavision-classification"}

Size = tuple[int, int]  # (width, height), pixels


@dataclass(frozen=True)
class View:
    """How a model sees images, as far as the frames of its boxes depend on it.

    Attributes:
        geometry: how images meet the canvas.
        strategy: what the study's code calls that: the name of a resize strategy.
    """

    geometry: ImageGeometry
    strategy: str

    @classmethod
    def of(cls, geometry: ImageGeometry, backbone: str, family: str) -> Self:
        """Return the view of a backbone, its resize strategy named as the study's code does.

        A corner letterbox is ``letterbox`` on the canvas that the backbone has by itself, and ``letterbox-square-...``
        on any other; resizing and cropping has a name of its own in VMamba and MambaVision.

        Args:
            geometry: how images meet it.
            backbone: its name; outside of the catalog the geometry is taken for its own.
            family: its family.
        """
        other_canvas = f"letterbox-square-{geometry.canvas[0]}"
        names = {
            "letterbox": "letterbox",
            "corner-letterbox": "letterbox" if _is_own(geometry, backbone) else other_canvas,
            "resize-crop": _NATIVE_CROPS.get(family, "resize-crop"),
            "squash": "resize-naive",
            "keep-ratio": f"{family}-keep-ratio",
        }
        return cls(geometry, names[geometry.strategy])

    @classmethod
    def of_record(cls, backbone: BackboneRecord) -> Self | None:
        """Return the view of a recorded backbone; None if its geometry is not recorded."""
        try:
            geometry = ImageGeometry.model_validate(backbone.geometry)
        except ValidationError:
            return None
        return cls.of(geometry, backbone.name or "", backbone.family or "")


def _is_own(geometry: ImageGeometry, backbone: str) -> bool:
    try:
        own = catalog.entry(backbone).geometry
    except SpecError:
        return True
    return (own.strategy, own.canvas) == (geometry.strategy, geometry.canvas)


def frame_of(frame: TestBoxFrame, size: Size, view: View | None) -> Placement | None:
    """Return where an image lies in a frame; None if that depends on a view that is not known.

    Args:
        frame: one of the four.
        size: of the image.
        view: how the model sees images.

    Raises:
        DataError: if the image has no area.
    """
    if frame == "original":
        return Placement.of_image(size)
    if frame == "padded-square":
        return Placement.of_padded_square(size)
    if view is None:
        return None
    if frame == "study":
        return study_frame(size, view.strategy, view.geometry.canvas)
    return view.geometry.placement(*size)


def study_frame(size: Size, strategy: str | None, target: object) -> Placement:
    """Return where an image lies in the frame that the study's repository scores in.

    Parity: ``normalize_bbox_for_transform`` of its evaluator.

    Args:
        size: of the image.
        strategy: name of the resize strategy, in any case; None counts as one that is not known.
        target: ``(height, width)`` that ``resize-crop`` cuts out; anything else leaves the image whole.

    Raises:
        DataError: if the image has no area.
    """
    name = (strategy or "").lower()
    if name == "letterbox":
        return Placement.of_padded_square(size)
    if name != "resize-crop" or not isinstance(target, Sequence) or len(target) != 2 or not all(target):
        return Placement.of_image(size)
    width, height = Placement.of_image(size).image_size
    target_height, target_width = target
    scale = max(target_width / width, target_height / height)
    beyond = (max(0.0, (width * scale - target_width) / 2), max(0.0, (height * scale - target_height) / 2))
    return Placement(size, (target_width, target_height), (scale, scale), (-beyond[0], -beyond[1]))


def in_words(frame: str, view: View | None) -> str:
    """Return what the numbers of a box are truly fractions of, so that equal frames have equal words.

    Args:
        frame: one of the four; any other name is returned as it is.
        view: how the model sees images.

    Example:
        >>> in_words("study", View(ImageGeometry(canvas=(224, 224)), "letterbox"))
        'padded square'
    """
    if view is None or frame not in ("study", "canvas"):
        return FRAME_TITLES.get(frame, frame)
    geometry = view.geometry
    height, width = geometry.canvas
    if frame == "study":
        words = {"letterbox": FRAME_TITLES["padded-square"], "resize-crop": f"crop of {height}x{width}"}
        return words.get(view.strategy, FRAME_TITLES["original"])
    if geometry.strategy == "squash":
        return FRAME_TITLES["original"]
    if geometry.strategy == "letterbox" and geometry.shorter_side in (None, height):
        return FRAME_TITLES["padded-square"]
    enlarged = "" if geometry.enlarge else ", never enlarged"
    return f"canvas ({height}x{width} {geometry.strategy}{enlarged})"


def write_in_frame(text: str, source: Placement, target: Placement) -> str:
    """Return a text about an image with its boxes moved from one frame to another, cut at the edges of that one.

    What is written as a box but is none, such as ``[3, 4, 5, 6]``, stays as it is.

    Example:
        >>> image, square = Placement.of_image((100, 50)), Placement.of_padded_square((100, 50))
        >>> write_in_frame("The dog is at [0, 0, 1, 1].", image, square)
        'The dog is at [0.00, 0.25, 1.00, 0.75].'
    """
    for match in reversed(list(BOX_PATTERN.finditer(text))):
        box = find_box(match[0])
        if box is not None:
            pixels = source.convert(box, "canvas-unit", "image")
            moved = format_box(clipped(target.convert(pixels, "image", "canvas-unit")))
            text = text[: match.start()] + moved + text[match.end() :]
    return text


def messages_in_frame(
    instructions: Sequence[Instruction], root: Path, source: BoxFrame | None, target: BoxFrame | None, view: View
) -> Iterator[Sequence[str]]:
    """Yield the messages of each conversation with their boxes in a frame.

    Args:
        instructions: the conversations.
        root: folder that image paths are relative to.
        source: frame of the boxes in the file.
        target: the frame wanted; if it is the source, or either is not known, texts stay as they are.
        view: how the model sees images.
    """
    for instruction in instructions:
        image = instruction.image
        moves = source != target and any(BOX_PATTERN.search(message) for message in instruction.messages)
        size = image_size(root / image) if moves and image is not None else None
        if size is None or source is None or target is None:
            yield instruction.messages
            continue
        before, after = frame_of(source, size, view), frame_of(target, size, view)
        if before is None or after is None:
            raise SpecError("boxes cannot be moved to or from a canvas that is not known")
        yield [write_in_frame(message, before, after) for message in instruction.messages]
