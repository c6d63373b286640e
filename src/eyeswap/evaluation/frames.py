"""Frames of boxes: the area of which the four numbers of a box are fractions.

* ``original``: the original image. The published evaluation suite scores in it.
* ``padded-square``: the image padded to a square on both sides equally. LLaVA's training text uses it.
* ``canvas``: the canvas that the model sees.
* ``study``: the frame in which the study's own repository scores, chosen by the name of the backbone's resize strategy:
  the padded square for ``letterbox``, wherever the canvas really pads; a centre crop for ``resize-crop``; the original
  image for every other name.

Each frame is a `Placement` of the image, so that one map converts boxes in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

from pydantic import ValidationError

from eyeswap.backbones import catalog
from eyeswap.data.formats.boxes import BOX_PATTERN, find_box, format_box
from eyeswap.data.instruction import Instruction
from eyeswap.errors import SpecError
from eyeswap.evaluation.boxes import clipped
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
    """The part of a model's image preprocessing that the frames of its boxes depend on.

    Attributes:
        geometry: how images are placed on the canvas.
        strategy: name of the resize strategy in the study's code.
    """

    geometry: ImageGeometry
    strategy: str

    @classmethod
    def of(cls, geometry: ImageGeometry, backbone: str, family: str) -> Self:
        """Return the view of a backbone, its resize strategy named as in the study's code.

        A corner letterbox is ``letterbox`` on the backbone's default canvas and ``letterbox-square-...`` on any other;
        for VMamba and MambaVision resizing and cropping has a separate name.

        Args:
            geometry: how images are placed on the canvas.
            backbone: name of the backbone; outside the catalog the geometry counts as its default.
            family: its family.
        """
        other_canvas = f"letterbox-square-{geometry.canvas[0]}"
        names = {
            "letterbox": "letterbox",
            "corner-letterbox": "letterbox" if _is_default(geometry, backbone) else other_canvas,
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


def _is_default(geometry: ImageGeometry, backbone: str) -> bool:
    try:
        default = catalog.entry(backbone).geometry
    except SpecError:
        return True
    return (default.strategy, default.canvas) == (geometry.strategy, geometry.canvas)


def frame_of(frame: TestBoxFrame, size: Size, view: View | None) -> Placement | None:
    """Return the placement of an image in a frame; None if it depends on an unknown view.

    Args:
        frame: one of the four.
        size: of the image.
        view: the model's view; None if unknown.

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
    """Return the placement of an image in the frame in which the study's repository scores.

    Equals ``normalize_bbox_for_transform`` of its evaluator.

    Args:
        size: of the image.
        strategy: name of the resize strategy, in upper or lower case; None counts as unknown.
        target: ``(height, width)`` of the crop of ``resize-crop``; with anything else the image is not cropped.

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
    """Describe the area that a frame really stands for, so that equal frames have equal descriptions.

    Args:
        frame: one of the four; any other name is returned unchanged.
        view: the model's view; None if unknown.

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
    """Return a text about an image with its boxes converted from one frame to another and clipped to it.

    A list that is not a valid box, such as ``[3, 4, 5, 6]``, is left unchanged.

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
    """Yield the messages of each conversation with their boxes converted to a frame.

    Args:
        instructions: the conversations.
        root: folder that image paths are relative to.
        source: frame of the boxes in the file; None if unknown.
        target: frame to convert to; None, or the same as the source, leaves the text unchanged.
        view: the model's view.
    """
    for instruction in instructions:
        image = instruction.image
        has_boxes = source != target and any(BOX_PATTERN.search(message) for message in instruction.messages)
        size = image_size(root / image) if has_boxes and image is not None else None
        if size is None or source is None or target is None:
            yield instruction.messages
            continue
        before, after = frame_of(source, size, view), frame_of(target, size, view)
        if before is None or after is None:
            raise SpecError("boxes cannot be converted to or from an unknown canvas")
        yield [write_in_frame(message, before, after) for message in instruction.messages]
