"""Boxes in answers: strict parsing, IoU, and conversion between image and canvas.

The study accepts an answer only if all of it is a Python list of four numbers in 0..1 (`parse_box`). The lenient
parser, which also finds a box in prose, is `eyeswap.data.formats.boxes.find_box`. An answer that cannot be parsed is
invalid, never an error.

The four numbers are fractions of the original image or of a canvas on which it lies; `to_original` and `to_canvas`
convert between the two, and `eyeswap.evaluation.frames` lists the canvases in use.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eyeswap.data.formats import Box
from eyeswap.data.formats.boxes import box_in_unit
from eyeswap.geometry import Placement


def parse_box(text: object) -> Box | None:
    """Return the box if the whole text is a Python list with a valid box in 0..1, else None.

    As in the study, surrounding prose, swapped corners and values above 1 are not accepted.
    """
    if not isinstance(text, str):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about odd literals
            value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return box_in_unit(value) if isinstance(value, list) else None


def to_original(box: Box, placement: Placement) -> Box:
    """Convert a box from fractions of the canvas to fractions of the original image, clipped to the image.

    A box that lies entirely in the padding becomes empty.
    """
    return clipped(placement.convert(box, "canvas-unit", "image-unit"))


def to_canvas(box: Box, placement: Placement) -> Box:
    """Convert a box from fractions of the original image to fractions of the canvas, clipped to the canvas."""
    return clipped(placement.convert(box, "image-unit", "canvas-unit"))


def clipped(box: Box) -> Box:
    """Return a box clipped to 0..1."""
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
    return x1, y1, x2, y2


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Return intersection over union of two ``(x1, y1, x2, y2)`` boxes; 0 if the union is empty."""
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0.0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0.0)
    overlap = width * height
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    union = areas[0] + areas[1] - overlap
    return overlap / union if union > 0 else 0.0


def iou_matrix(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of every pair of boxes.

    Args:
        first: ``[n, 4]``.
        second: ``[m, 4]``.

    Returns:
        ``[n, m]``.
    """
    a, b = first[:, None], second[None]  # [n, 1, 4], [1, m, 4]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # [n, m, 2]
    overlap = np.clip(sides, 0, None).prod(-1)
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    union = areas[0] + areas[1] - overlap
    ratio: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio
