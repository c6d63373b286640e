"""Image geometry: how images are fitted to the canvas of a backbone, as invertible maps.

Every strategy amounts to one scale and one offset per axis: ``canvas = image * scale + offset``. `ImageGeometry` makes
the pixels, and `Placement` holds that map, so that boxes can be converted to the canvas and back without loss.
Coordinates are pixel edges: an image of width 5 spans 0 to 5. Two letterboxes exist in published code and differ in
anchor, scale and order: ``letterbox`` pads to a centred square and then resizes; ``corner-letterbox`` resizes first and
pads right and bottom.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.images import MAX_IMAGE_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]
Frame = Literal["image", "image-unit", "canvas", "canvas-unit"]
Strategy = Literal["letterbox", "corner-letterbox", "squash", "resize-crop", "keep-ratio"]
Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MULTIPLE = 32  # canvases that vary with the image are padded to a multiple of this many pixels


@dataclass(frozen=True)
class Placement:
    """The position of an image on its canvas: ``canvas = image * scale + offset``, per axis, in pixels.

    Attributes:
        image_size: ``(width, height)`` of the image.
        canvas_size: ``(width, height)`` of the canvas.
        scale: canvas pixels per image pixel, ``(x, y)``.
        offset: canvas position of the image's top left corner, ``(x, y)``; negative if the image is cropped there.
    """

    image_size: tuple[int, int]
    canvas_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of_image(cls, size: tuple[int, int]) -> Self:
        """Return the placement of an image that is its own canvas.

        Raises:
            DataError: if it has no area.
        """
        if min(size) <= 0:
            raise DataError(f"an image of {size[0]}x{size[1]} pixels has no area")
        return cls(size, size, (1.0, 1.0), (0.0, 0.0))

    @classmethod
    def of_padded_square(cls, size: tuple[int, int]) -> Self:
        """Return the placement of an image in its padded square, with exactly half of the padding on each side.

        Raises:
            DataError: if it has no area.
        """
        side = max(size)
        if side <= 0:
            raise DataError(f"an image of {size[0]}x{size[1]} pixels has no area")
        return cls(size, (side, side), (1.0, 1.0), ((side - size[0]) / 2, (side - size[1]) / 2))

    def convert(self, box: Box, source: Frame, target: Frame) -> Box:
        """Convert a box ``(x1, y1, x2, y2)`` from one frame to another; ``-unit`` frames span 0 to 1.

        Boxes are not clipped: they may extend beyond a cropped canvas, and converting back is still exact.
        """
        x1, y1, x2, y2 = box
        (left, right), (top, bottom) = (
            [self._from_image(self._to_image(value, axis, source), axis, target) for value in pair]
            for axis, pair in enumerate(((x1, x2), (y1, y2)))
        )
        return left, top, right, bottom

    def to_canvas(self, box: Box) -> Box:
        """Convert a box from image pixels to canvas pixels."""
        return self.convert(box, "image", "canvas")

    @property
    def content_box(self) -> Box:
        """The part of the canvas that shows the image, in canvas pixels."""
        x1, y1, x2, y2 = self.to_canvas((0, 0, *self.image_size))
        width, height = self.canvas_size
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))

    def _to_image(self, value: float, axis: int, source: Frame) -> float:
        if source == "image":
            return value
        if source == "image-unit":
            return value * self.image_size[axis]
        canvas = value * self.canvas_size[axis] if source == "canvas-unit" else value
        return (canvas - self.offset[axis]) / self.scale[axis]

    def _from_image(self, value: float, axis: int, target: Frame) -> float:
        if target == "image":
            return value
        if target == "image-unit":
            return value / self.image_size[axis]
        canvas = value * self.scale[axis] + self.offset[axis]
        return canvas / self.canvas_size[axis] if target == "canvas-unit" else canvas


class ImageGeometry(BaseModel):
    """Everything that determines how an image becomes ``pixel_values``.

    Strategies:
        letterbox: pad to a centred square, then resize to the canvas (or, with ``shorter_side``, resize the shorter
            side and crop the centre). Small images are enlarged. If the sides differ by an odd number, the padded image
            is one pixel short of square, as in the published code.
        corner-letterbox: resize to fit, keeping the aspect ratio, and pad right and bottom. ``enlarge`` applies to
            small images.
        squash: resize to the canvas, ignoring the aspect ratio.
        resize-crop: resize the shorter side to ``shorter_side`` and crop the centre.
        keep-ratio: fit the longer side into the canvas's longer side and the shorter into the shorter, and pad right
            and bottom to a multiple of 32, so that the canvas varies with the image.

    Attributes:
        strategy: one of the above.
        canvas: ``(height, width)`` in pixels.
        interpolation: PIL filter; both are antialiased when shrinking.
        mean: subtracted from the 0..1 colours.
        std: divides the result.
        fill: padding colour 0..255; by default the mean, truncated to integers.
        enlarge: whether images smaller than the canvas are enlarged.
        shorter_side: size of the shorter side before the crop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = "letterbox"
    canvas: tuple[int, int]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    fill: tuple[int, int, int] | None = None
    enlarge: bool = True
    shorter_side: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.canvas) < 1:
            raise ValueError(f"canvas {self.canvas}: both sides must be at least 1 pixel")
        if self.strategy == "letterbox" and self.canvas[0] != self.canvas[1]:
            raise ValueError(f"canvas {self.canvas}: letterbox pads to a square; use corner-letterbox")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: must be positive")
        crops = self.strategy in ("letterbox", "resize-crop")
        if self.shorter_side is not None and not crops:
            raise ValueError(f"shorter_side does not apply to {self.strategy}: remove it")
        if self.strategy == "resize-crop" and self.shorter_side is None:
            raise ValueError("resize-crop needs shorter_side")
        if self.shorter_side is not None and self.shorter_side < max(self.canvas):
            raise ValueError(f"shorter_side {self.shorter_side} is smaller than the canvas {self.canvas}")
        if not self.enlarge and self.strategy not in ("corner-letterbox", "keep-ratio"):
            raise ValueError(f"{self.strategy} always enlarges: remove enlarge")
        return self

    @property
    def fill_colour(self) -> tuple[int, int, int]:
        """The padding colour, 0..255."""
        red, green, blue = (int(value * 255) for value in self.mean)
        return self.fill if self.fill is not None else (red, green, blue)

    def place(self, image: Image.Image) -> tuple[Tensor, Placement]:
        """Draw an image on its canvas.

        Returns:
            Normalized ``[3, H, W]`` float32 pixels, and the placement that converts boxes.

        Raises:
            DataError: if the image is so elongated that its padded square would not fit in memory.
        """
        import numpy as np
        import torch

        placement = self.placement(*image.size)
        canvas = self._draw(image.convert("RGB"), placement)
        pixels = torch.from_numpy(np.array(canvas, dtype=np.float32) / 255)  # [H, W, 3]
        pixels = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        return pixels.permute(2, 0, 1).contiguous(), placement  # [3, H, W]

    def placement(self, width: int, height: int) -> Placement:
        """Return the placement of an image of this size, without computing pixels.

        Raises:
            DataError: if it has no pixels.
        """
        if width < 1 or height < 1:
            raise DataError(f"image of {width}x{height} pixels: both sides must be at least 1")
        if self.strategy in ("corner-letterbox", "keep-ratio"):
            return self._fitted(width, height)
        left, top = self._padding(width, height)
        sides = (width + 2 * left, height + 2 * top)
        resized = self._resized(*sides)
        scale = (resized[0] / sides[0], resized[1] / sides[1])
        canvas = (self.canvas[1], self.canvas[0])
        crop = [round((size - space) / 2) for size, space in zip(resized, canvas, strict=True)]
        offset = (left * scale[0] - crop[0], top * scale[1] - crop[1])
        return Placement((width, height), canvas, scale, offset)

    def override(self, text: str) -> ImageGeometry:
        """Return this geometry with another strategy and canvas, but the same colours and interpolation.

        Args:
            text: ``<strategy>-<side>`` or ``<strategy>-<height>x<width>``, as in ``squash-800x1333``; optionally
                followed by ``-from-<shorter side>`` (resize to that and crop the centre, as in
                ``resize-crop-224-from-256``) or ``-no-enlarge`` (as in ``corner-letterbox-512-no-enlarge``).

        Raises:
            SpecError: if the text does not have this form, or the combination is impossible.
        """
        match = re.fullmatch(r"([a-z-]+)-(\d+)(?:x(\d+))?(?:-from-(\d+))?(-no-enlarge)?", text)
        if match is None or match[1] not in get_args(Strategy):
            strategy = re.split(r"-?\d", text, maxsplit=1)[0]
            raise SpecError(
                f"geometry {text!r}: write <strategy>-<side> or <strategy>-<height>x<width>, optionally followed by "
                f"-from-<shorter side> or -no-enlarge. {nearest(strategy, get_args(Strategy))}"
            )
        canvas = (int(match[2]), int(match[3] or match[2]))
        shorter_side = int(match[4]) if match[4] else max(canvas) if match[1] == "resize-crop" else None
        changes = {
            "strategy": match[1],
            "canvas": canvas,
            "shorter_side": shorter_side,
            "enlarge": match[5] is None,
        }
        try:
            return ImageGeometry.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise SpecError(f"geometry {text!r}: {error.errors()[0]['msg']}") from None

    def __str__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """Return a one-line description."""
        height, width = self.canvas
        words = [f"{height}x{width} {self.strategy}", self.interpolation]
        if self.shorter_side is not None:
            words.append(f"shorter side {self.shorter_side}, centre crop")
        if not self.enlarge:
            words.append("never enlarged")
        if self.strategy in ("letterbox", "corner-letterbox", "keep-ratio"):
            words.append("fill " + "/".join(map(str, self.fill_colour)))
        mean, std = ("/".join(f"{value:g}" for value in colour) for colour in (self.mean, self.std))
        return ", ".join([*words, f"mean {mean}, std {std}"])

    def canonical(self) -> dict[str, Any]:
        """Return everything that determines the pixels as plain data, for digests."""
        return {**self.model_dump(mode="json"), "fill": list(self.fill_colour)}

    def _padding(self, width: int, height: int) -> tuple[int, int]:
        """Return the padding ``(left, top)`` that the centred letterbox adds on each side."""
        if self.strategy != "letterbox":
            return 0, 0
        side = max(width, height)
        return (side - width) // 2, (side - height) // 2

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the size after resizing and before cropping, ``(width, height)``."""
        if self.shorter_side is None:
            return self.canvas[1], self.canvas[0]
        if width <= height:
            return self.shorter_side, int(self.shorter_side * height / width)
        return int(self.shorter_side * width / height), self.shorter_side

    def _fitted(self, width: int, height: int) -> Placement:
        limit = (self.canvas[1], self.canvas[0])
        if self.strategy == "keep-ratio" and (width < height) != (limit[0] < limit[1]):
            limit = (limit[1], limit[0])
        factor = min(limit[0] / width, limit[1] / height)
        if factor > 1 and not self.enlarge:
            factor = 1.0
        resized = [max(1, round(side * factor)) for side in (width, height)]
        canvas = limit
        if self.strategy == "keep-ratio":
            canvas = (_round_up(resized[0]), _round_up(resized[1]))
        return Placement((width, height), canvas, (resized[0] / width, resized[1] / height), (0.0, 0.0))

    def _draw(self, image: Image.Image, placement: Placement) -> Image.Image:
        filter_ = _RESAMPLING[self.interpolation]
        if self.strategy in ("corner-letterbox", "keep-ratio"):
            size = [round(side * scale) for side, scale in zip(image.size, placement.scale, strict=True)]
            canvas = Image.new("RGB", placement.canvas_size, self.fill_colour)
            canvas.paste(image.resize((size[0], size[1]), filter_) if tuple(size) != image.size else image)
            return canvas
        left, top = self._padding(*image.size)
        if left or top:
            image = self._padded(image, left, top)
        if self.shorter_side is None:
            return image.resize(placement.canvas_size, filter_)
        resized = self._resized(*image.size)
        _check_size(resized, image)
        crop = [round((size - space) / 2) for size, space in zip(resized, placement.canvas_size, strict=True)]
        corners = (crop[0], crop[1], crop[0] + placement.canvas_size[0], crop[1] + placement.canvas_size[1])
        return image.resize(resized, filter_).crop(corners)

    def _padded(self, image: Image.Image, left: int, top: int) -> Image.Image:
        size = (image.width + 2 * left, image.height + 2 * top)
        _check_size(size, image)
        canvas = Image.new("RGB", size, self.fill_colour)
        canvas.paste(image, (left, top))
        return canvas


DEFAULT_GEOMETRY = ImageGeometry(canvas=(224, 224))  # for encoders that define none


def _check_size(size: tuple[int, int], image: Image.Image) -> None:
    if size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise DataError(
            f"image of {image.width}x{image.height} pixels is too elongated: it would grow to {size[0]}x{size[1]} "
            "before it is fitted to the canvas; use squash or corner-letterbox, or crop the image"
        )


def _round_up(size: int) -> int:
    return math.ceil(size / _MULTIPLE) * _MULTIPLE
