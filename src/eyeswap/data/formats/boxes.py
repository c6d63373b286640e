"""Boxes in texts, and true boxes: from pixels of the original image to 0..1, rounded to two decimals as the study does.

Rounding can make a very thin box degenerate; the study keeps such boxes, so this does too. Where the study scores boxes
in another frame, it starts from pixels: of the annotation in its slim sets, of the rounded box in its full sets
(`full_set_box`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from eyeswap.errors import DataError

Box = tuple[float, float, float, float]

# Possessive (`++`): a digit is never given back, so that a long row of digits is read once and not once a digit.
_NUMBER = r"[-+]?(?:\d++\.?+\d*+|\.\d++)"
_COMMA = r"\s*+,\s*+"
BOX_PATTERN = re.compile(rf"[\[(]\s*+({_NUMBER}){_COMMA}({_NUMBER}){_COMMA}({_NUMBER}){_COMMA}({_NUMBER})\s*+[\])]")


def xywh_to_xyxy(box: Sequence[float]) -> Box:
    """Return ``(x1, y1, x2, y2)`` of a COCO box ``[x, y, width, height]``."""
    x, y, width, height = box
    return (x, y, x + width, y + height)


def check_box(box: Box, size: tuple[int, int], where: str = "box") -> Box:
    """Return ``box`` if ``x1 < x2 <= width`` and ``y1 < y2 <= height``.

    Raises:
        DataError: if it is empty or reaches over the right or lower edge; ``where`` opens the message.
    """
    x1, y1, x2, y2 = box
    width, height = size
    if not (x1 < x2 <= width and y1 < y2 <= height):
        raise DataError(f"{where}: box {list(box)} is empty or outside its {width}x{height} image")
    return box


def normalise_box(box: Box, size: tuple[int, int], where: str = "box") -> Box:
    """Return a pixel box in 0..1 of the image, each value rounded to two decimals.

    Args:
        box: ``(x1, y1, x2, y2)`` in pixels.
        size: (width, height) of the original image.
        where: file and row, for the message.

    Raises:
        DataError: if the box is empty or reaches over the right or lower edge.
    """
    x1, y1, x2, y2 = check_box(box, size, where)
    width, height = size
    return (round(x1 / width, 2), round(y1 / height, 2), round(x2 / width, 2), round(y2 / height, 2))


def full_set_box(truth: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the pixel box that the study's full sets carry: its two-decimal box times the image's size.

    Parity: ``metadata-full-v2.json`` of the study's evaluator, which is made from rounded boxes, and rounds to a
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
    """Return four numbers as a box if they lie in 0..1 and its corners are in order, else None."""
    if len(value) != 4 or not all(isinstance(number, int | float) and 0 <= number <= 1 for number in value):
        return None
    x1, y1, x2, y2 = value
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
