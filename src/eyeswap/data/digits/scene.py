"""Scenes of the embedded data set: handwritten digits and simple shapes on a canvas, and how they are rendered.

A scene is plain data; `language.py` describes it. The digits are scikit-learn's 1,797 real scans (8x8, UCI "Optical
Recognition of Handwritten Digits"), divided into two disjoint pools, so that no handwriting of the training scenes
occurs in validation. A scene depends only on (seed, split, index), so scenes can be made in any order by any number of
processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Split = Literal["train", "val"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "yellow": (240, 215, 50),
    "green": (60, 200, 70),
    "blue": (70, 110, 250),
    "purple": (190, 70, 215),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle")
DIGITS = tuple(str(number) for number in range(10))
KINDS = DIGITS + SHAPES
MAX_THINGS = 6
_SPLIT_NUMBER = {"train": 0, "val": 1}
_VALIDATION_SCANS = 497  # the last scans in file order; 1,300 remain for training
_INK_THRESHOLD = 0.3


@dataclass(frozen=True)
class Thing:
    """One digit or shape of a scene.

    Attributes:
        kind: ``"0"``..``"9"`` or the name of a shape.
        colour: a key of `COLOURS`.
        box: ``(x0, y0, x1, y1)`` in pixels, tight around the visible ink.
        frame: ``(x, y, side)`` in pixels: the square in which it is drawn.
        scan: row of the handwritten scan, -1 for a shape.
    """

    kind: str
    colour: str
    box: tuple[float, float, float, float]
    frame: tuple[int, int, int]
    scan: int

    @property
    def is_digit(self) -> bool:
        """Whether it is a handwritten digit rather than a shape."""
        return self.scan >= 0

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box in pixels, ``(x, y)``."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def area(self) -> float:
        """Area of the drawing frame in square pixels: the size a person would name."""
        return float(self.frame[2] ** 2)


@dataclass(frozen=True)
class Scene:
    """A canvas of ``width`` x ``height`` pixels with things on it, and the seed of its texture."""

    width: int
    height: int
    things: tuple[Thing, ...]
    texture_seed: int


@lru_cache(maxsize=1)
def scans() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the handwritten scans ``[1797, 8, 8]`` scaled to 0..1, and their digits ``[1797]``."""
    # Not by sklearn.datasets.load_digits: importing it takes seconds in every process that draws.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return (table[:, :-1].reshape(-1, 8, 8) / 16.0).astype(np.float32), table[:, -1].astype(np.int64)


@lru_cache(maxsize=4)
def pool(split: Split) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rows of the scans that a split may use, by digit; the two splits share none."""
    labels = scans()[1]
    rows = np.arange(len(labels))
    keep = rows < len(rows) - _VALIDATION_SCANS if split == "train" else rows >= len(rows) - _VALIDATION_SCANS
    return {digit: rows[keep & (labels == int(digit))] for digit in DIGITS}


def scene_rng(seed: int, split: Split, index: int) -> np.random.Generator:
    """Return the random generator of one scene, independent of every other scene."""
    return np.random.default_rng([seed, _SPLIT_NUMBER[split], index])


def sample_scene(
    rng: np.random.Generator,
    split: Split,
    *,
    num_things: int | None = None,
    size: tuple[int, int] | None = None,
    sides: tuple[float, float] | None = None,
) -> Scene:
    """Draw a random scene.

    Args:
        rng: the scene's own generator.
        split: which pool of handwriting to use.
        num_things: number of things wanted; by default 1 to `MAX_THINGS`. Fewer are placed when no room is left.
        size: canvas ``(width, height)`` in pixels; by default an aspect ratio from 2:3 to 3:2, long side 144..192.
        sides: smallest and largest side of a thing, in shorter canvas sides; by default smaller in a crowd.
    """
    if size is None:
        aspect = np.exp(rng.uniform(np.log(2 / 3), np.log(3 / 2)))
        long_side = int(rng.integers(144, 193))
        size = (long_side, round(long_side / aspect)) if aspect >= 1 else (round(long_side * aspect), long_side)
    width, height = size
    wanted = num_things or int(rng.choice(np.arange(1, MAX_THINGS + 1), p=[0.1, 0.2, 0.25, 0.2, 0.15, 0.1]))
    smallest, largest = sides or ((0.26, 0.44) if wanted <= 3 else (0.22, 0.34))
    things: list[Thing] = []
    for _ in range(wanted):
        for _attempt in range(30):
            side = int(min(width, height) * rng.uniform(smallest, largest))
            x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
            if all(_is_apart((x, y, side), other.frame) for other in things):
                things.append(_sample_thing(rng, split, (x, y, side)))
                break
    return Scene(width, height, tuple(things), int(rng.integers(2**31)))


def _is_apart(a: tuple[int, int, int], b: tuple[int, int, int], gap: int = 2) -> bool:
    return (
        a[0] + a[2] + gap <= b[0] or b[0] + b[2] + gap <= a[0] or a[1] + a[2] + gap <= b[1] or b[1] + b[2] + gap <= a[1]
    )


def _sample_thing(rng: np.random.Generator, split: Split, frame: tuple[int, int, int]) -> Thing:
    x, y, side = frame
    colour = str(rng.choice(list(COLOURS)))
    if rng.random() < 0.7:
        kind = str(rng.choice(DIGITS))
        scan = int(rng.choice(pool(split)[kind]))
        left, top, right, bottom = ink_box(scan)
        box = (x + left * side, y + top * side, x + right * side, y + bottom * side)
        return Thing(kind, colour, box, frame, scan)
    kind = str(rng.choice(SHAPES))
    return Thing(kind, colour, (float(x), float(y), float(x + side), float(y + side)), frame, -1)


@lru_cache(maxsize=2048)
def ink_box(scan: int) -> tuple[float, float, float, float]:
    """Return the tight box ``(x0, y0, x1, y1)`` of a scan's ink as fractions of its 8x8 frame."""
    ink = scans()[0][scan] > _INK_THRESHOLD
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return columns[0] / 8, rows[0] / 8, (columns[-1] + 1) / 8, (rows[-1] + 1) / 8


_SUPERSAMPLE = 4


def render(scene: Scene) -> Image.Image:
    """Return the scene as an RGB image of its own size; the same scene gives the same pixels."""
    rng = np.random.default_rng(scene.texture_seed)
    canvas = _texture(rng, scene.width, scene.height)  # [H, W, 3] float, 0..255
    for thing in scene.things:
        x, y, side = thing.frame
        mask = _mask(thing)[:, :, None]  # [side, side, 1], 0..1
        colour = np.asarray(COLOURS[thing.colour], np.float32) * float(rng.uniform(0.85, 1.0))
        patch = canvas[y : y + side, x : x + side]
        patch += mask * (colour - patch)
    canvas += 4 * rng.standard_normal(canvas.shape, np.float32)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def label_map(scene: Scene) -> npt.NDArray[np.uint8]:
    """Return the category of every pixel, ``[H, W]``: 0 is the background, ``1 + KINDS.index(kind)`` a thing.

    A pixel belongs to a thing if the thing covers at least half of it.
    """
    labels = np.zeros((scene.height, scene.width), np.uint8)
    for thing in scene.things:
        x, y, side = thing.frame
        labels[y : y + side, x : x + side][_mask(thing) >= 0.5] = 1 + KINDS.index(thing.kind)
    return labels


def _texture(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Smooth dark noise with soft stripes, in a random dull tint."""
    coarse = rng.uniform(0, 1, (int(rng.integers(3, 9)), int(rng.integers(3, 9)))).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(6, 24)
    across = np.arange(width, dtype=np.float32) * float(frequency * np.cos(angle))
    down = np.arange(height, dtype=np.float32) * float(frequency * np.sin(angle))
    stripes = np.sin(across + down[:, None])  # [H, W]
    tint = rng.uniform(0.7, 1.0, 3).astype(np.float32)
    shade = float(rng.uniform(20, 50)) + 55 * smooth + float(rng.uniform(0, 10)) * stripes
    return np.asarray(shade[:, :, None] * tint, np.float32)


def _mask(thing: Thing) -> npt.NDArray[np.float32]:
    side = thing.frame[2]
    if thing.is_digit:
        scan = Image.fromarray(scans()[0][thing.scan])
        ink = np.asarray(scan.resize((side, side), Image.Resampling.BICUBIC))
        return np.clip((ink - 0.15) / 0.5, 0, 1)  # a firm stroke instead of a grey blur
    big = side * _SUPERSAMPLE
    drawing = Image.new("L", (big, big))
    pen = ImageDraw.Draw(drawing)
    if thing.kind == "circle":
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif thing.kind == "square":
        pen.rectangle((0, 0, big - 1, big - 1), fill=255)
    else:
        pen.polygon([(big / 2, 0), (big - 1, big - 1), (0, big - 1)], fill=255)
    covered = np.asarray(drawing.resize((side, side), Image.Resampling.BOX), np.float32)
    return np.asarray(covered / 255, np.float32)
