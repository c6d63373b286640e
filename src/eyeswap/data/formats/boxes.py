"""Boxes: formatting and finding them in text, and converting annotated pixels to fractions as the study does.

True boxes are rounded to two decimals. Rounding can make a very thin box degenerate; like the study, we keep it. To
score boxes in another frame, the study starts from pixels: those of the annotation in its slim sets, those of the
rounded box in its full sets (`full_set_box`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from eyeswap.errors import DataError

Box = tuple[float, float, float, float]

BOX_REQUEST = "Please provide the bounding box coordinate of the region this sentence describes: "  # as in LLaVA's mix

# Possessive quantifiers (`++`) never backtrack, so that a long run of digits is scanned once and not once per digit.
_NUMBER = r"[-+]?(?:\d++\.?+\d*+|\.\d++)"
_COMMA = r"\s*+,\s*+"
BOX_PATTERN = re.compile(rf"[\[(]\s*+({_NUMBER}){_COMMA}({_NUMBER}){_COMMA}({_NUMBER}){_COMMA}({_NUMBER})\s*+[\])]")


def format_box(box: Sequence[float]) -> str:
    """Return a box as text in the style of LLaVA's instruction data, with two decimals.

    Example:
        >>> format_box((0.1, 0.25, 0.5, 1))
        '[0.10, 0.25, 0.50, 1.00]'
    """
    return "[" + ", ".join(f"{value:.2f}" for value in box) + "]"


def xywh_to_xyxy(box: Sequence[float]) -> Box:
    """Return ``(x1, y1, x2, y2)`` of a COCO box ``[x, y, width, height]``."""
    x, y, width, height = box
    return (x, y, x + width, y + height)


def check_box(box: Box, size: tuple[int, int], where: str = "box") -> Box:
    """Return ``box`` if ``x1 < x2 <= width`` and ``y1 < y2 <= height``.

    Raises:
        DataError: if it is empty or crosses the right or lower edge; the message begins with ``where``.
    """
    x1, y1, x2, y2 = box
    width, height = size
    if not (x1 < x2 <= width and y1 < y2 <= height):
        raise DataError(f"{where}: box {list(box)} is empty or outside its {width}x{height} image")
    return box


def normalise_box(box: Box, size: tuple[int, int], where: str = "box") -> Box:
    """Convert a box from pixels to fractions of the image, rounded to two decimals.

    Args:
        box: ``(x1, y1, x2, y2)`` in pixels.
        size: (width, height) of the original image.
        where: file and row, for the message.

    Raises:
        DataError: if the box is empty or crosses the right or lower edge.
    """
    x1, y1, x2, y2 = check_box(box, size, where)
    width, height = size
    return (round(x1 / width, 2), round(y1 / height, 2), round(x2 / width, 2), round(y2 / height, 2))


def full_set_box(truth: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the pixel box of the study's full sets: the rounded box times the image's size.

    Equals ``metadata-full-v2.json`` of the study's evaluator, which is computed from rounded boxes and rounded to a
    hundredth of a pixel.

    Args:
        truth: ``(x1, y1, x2, y2)`` in 0..1, two decimals.
        size: (width, height) of the image.
    """
    x1, y1, x2, y2 = truth
    width, height = size
    return (round(x1 * width, 2), round(y1 * height, 2), round(x2 * width, 2), round(y2 * height, 2))


def find_box(text: object) -> Box | None:
    """Return the first bracketed group of four numbers in a text if it is a valid box in 0..1, else None."""
    match = BOX_PATTERN.search(text) if isinstance(text, str) else None
    return box_in_unit([float(number) for number in match.groups()]) if match else None


def box_in_unit(value: list[Any]) -> Box | None:
    """Return four numbers as a box if they are in 0..1 and its corners are ordered, else None."""
    if len(value) != 4 or not all(isinstance(number, int | float) and 0 <= number <= 1 for number in value):
        return None
    x1, y1, x2, y2 = value
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
