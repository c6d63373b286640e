"""What a model scores that answers in one frame of boxes and is scored in another, for all pairs of frames.

    python -m benchmarks.validity.frames

prints the tables of ``docs/collapse.md``. Nothing is drawn at random: image sizes have stated shares; areas, aspect
ratios and places of boxes are the midpoints of equal parts of stated distributions; edges are off by stated amounts.
Every mean is over all combinations, so the numbers are exact for these distributions. Frames are those that eyeswap
scores in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eyeswap.evaluation import BENCHMARKS
from eyeswap.evaluation.frames import study_frame
from eyeswap.geometry import ImageGeometry, Placement

Floats = NDArray[np.float64]

# Common sizes of COCO photographs, (width, height), and the shares taken for them.
COCO_SIZES = {
    (640, 480): 0.35,
    (640, 427): 0.25,
    (500, 375): 0.10,
    (480, 640): 0.15,
    (427, 640): 0.10,
    (640, 640): 0.05,
}
PARTS = 9  # that each distribution of boxes is cut into; 4 for imprecise answers, of which each box has 256
FEWER_PARTS = 4
ASPECT_SPREAD = 0.5  # standard deviation of the logarithm of width over height, in pixels
LARGEST = 0.98  # of a side of the image
EDGE_STEPS = tuple(stats.norm.ppf((np.arange(4) + 0.5) / 4))  # four equally likely errors of standard deviation near 1


@dataclass(frozen=True)
class Benchmark:
    """Boxes of one kind.

    Attributes:
        title: for tables.
        sizes: image sizes and their shares.
        median_area: median share of the image that a box covers.
        area_spread: standard deviation of the logarithm of that share.
        aspect: median of width over height, in pixels.
        crowding: how much places crowd in the middle of the image: both parameters of a beta distribution, 1 for none.
        threshold: IoU from which an answer is right.
        weight: examples of the full set.
    """

    title: str
    sizes: dict[tuple[int, int], float]
    median_area: float
    area_spread: float
    aspect: float
    crowding: float
    threshold: float
    weight: int


REFCOCO = Benchmark("RefCOCO-like", COCO_SIZES, 0.10, 0.9, 0.75, 1.0, 0.5, 26_488)
OCID = Benchmark("OCID-like", {(640, 480): 1.0}, 0.02, 0.7, 1.0, 3.0, 0.25, 18_342)
LOCALIZATION_WEIGHT = (REFCOCO.weight + OCID.weight) / sum(one.num_published for one in BENCHMARKS.values())


def _corner(canvas: tuple[int, int], *, enlarge: bool) -> ImageGeometry:
    return ImageGeometry(strategy="corner-letterbox", canvas=canvas, enlarge=enlarge)


CORNERS = {
    "corner square": _corner((512, 512), enlarge=True),
    "corner 1024, never enlarged": _corner((1024, 1024), enlarge=False),
    "corner 800x1333": _corner((800, 1333), enlarge=True),
    "corner 800x1333, never enlarged": _corner((800, 1333), enlarge=False),
}
FRAMES = ("original image", "padded square", *CORNERS, "centre crop")


def placement(frame: str, size: tuple[int, int]) -> Placement:
    """Return where an image lies in a frame."""
    if frame == "original image":
        return Placement.of_image(size)
    if frame == "padded square":
        return Placement.of_padded_square(size)
    if frame == "centre crop":
        return study_frame(size, "resize-crop", (224, 224))
    return CORNERS[frame].placement(*size)


def true_boxes(kind: Benchmark, size: tuple[int, int], count: int) -> Floats:
    """Return boxes ``[n, 4]`` in pixels, ``(x1, y1, x2, y2)``, all equally likely."""
    parts = (np.arange(count) + 0.5) / count
    areas = kind.median_area * np.exp(kind.area_spread * stats.norm.ppf(parts))
    aspects = kind.aspect * np.exp(ASPECT_SPREAD * stats.norm.ppf(parts))
    places = stats.beta.ppf(parts, kind.crowding, kind.crowding)
    boxes = []
    for area, aspect, across, down in product(areas, aspects, places, places):
        width = min(np.sqrt(area * size[0] * size[1] * aspect), LARGEST * size[0])
        height = min(np.sqrt(area * size[0] * size[1] / aspect), LARGEST * size[1])
        left, top = across * (size[0] - width), down * (size[1] - height)
        boxes.append((left, top, left + width, top + height))
    return np.array(boxes)


def in_frame(boxes: Floats, frame: str, size: tuple[int, int]) -> Floats:
    """Return pixel boxes ``[n, 4]`` in 0..1 of a frame, cut at its edges as true boxes are."""
    one = placement(frame, size)
    moved = boxes * np.tile(one.scale, 2) + np.tile(one.offset, 2)
    return np.clip(moved / np.tile(one.canvas_size, 2), 0.0, 1.0)


def answers(truth: Floats, error: float) -> Floats:
    """Return what a model answers to true boxes ``[n, 4]`` of its frame, in two decimals: ``[k, n, 4]``.

    Args:
        truth: boxes.
        error: standard deviation of each edge's error, as a share of the box's side; at 0 ``k`` is 1, else 256.
    """
    steps = np.array(list(product(EDGE_STEPS, repeat=4))) if error else np.zeros((1, 4))
    sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    moved: Floats = np.round(np.clip(truth + error * steps[:, None] * sides, 0.0, 1.0), 2)
    return moved


def share_right(told: Floats, truth: Floats, threshold: float) -> float:
    """Return the share of answers ``[k, n, 4]`` whose IoU with the true boxes ``[n, 4]`` reaches a threshold."""
    sides = np.minimum(told[..., 2:], truth[:, 2:]) - np.maximum(told[..., :2], truth[:, :2])
    overlap = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (told, truth)]
    valid = (told[..., 2:] > told[..., :2]).all(-1)
    union = areas[0] + areas[1] - overlap
    return float((valid & (overlap >= threshold * union) & (union > 0)).mean())


def scores(kind: Benchmark, answered: str, error: float = 0.0, parts: int = PARTS) -> dict[str, float]:
    """Return the score in percent, in each frame, of a model that always finds the object.

    Args:
        kind: what is asked.
        answered: frame of the answers.
        error: of each edge, as a share of the box's side.
        parts: that each distribution of boxes is cut into.
    """
    found = dict.fromkeys(FRAMES, 0.0)
    for size, share in kind.sizes.items():
        boxes = true_boxes(kind, size, parts)
        rounded = in_frame(boxes, FRAMES[0], size).round(2) * np.tile(size, 2)  # the truth of full sets
        told = answers(in_frame(boxes, answered, size), error)
        for scored in FRAMES:
            found[scored] += 100 * share * share_right(told, in_frame(rounded, scored, size), kind.threshold)
    return found


def pairs_table(title: str, error: float, parts: int) -> list[str]:
    """Return a Markdown table: answers in the frame of the row, true boxes in that of the column."""
    lines = [f"| {title} | " + " | ".join(FRAMES) + " |", "|---|" + "--:|" * len(FRAMES)]
    for answered in FRAMES:
        refcoco, ocid = (scores(kind, answered, error, parts) for kind in (REFCOCO, OCID))
        cells = [f"{refcoco[scored]:.0f} ({ocid[scored]:.0f})" for scored in FRAMES]
        lines.append(f"| {answered} | " + " | ".join(cells) + " |")
    return lines


def sizes_table() -> list[str]:
    """Return a Markdown table of what the two likely frames cost at each image size."""
    lines = [
        f"| image | {FRAMES[0]}, scored in the {FRAMES[1]} | {FRAMES[1]}, scored in the {FRAMES[0]} |",
        "|---|--:|--:|",
    ]
    for size in COCO_SIZES:
        alone = replace(REFCOCO, sizes={size: 1.0})
        there, back = scores(alone, FRAMES[0])[FRAMES[1]], scores(alone, FRAMES[1])[FRAMES[0]]
        lines.append(f"| {size[0]}x{size[1]} | {there:.1f} | {back:.1f} |")
    return lines


ERRORS = (0.0, 0.1, 0.15, 0.2)
IMPRECISE = 0.15
FOUND = 0.75  # share of objects that an imprecise model finds


def losses_table() -> list[str]:
    """Return a Markdown table of the localization score that a mismatch of the two likely frames costs."""
    lines = ["| error of an edge | same frame | other frame | lost | lost overall |", "|--:|--:|--:|--:|--:|"]
    weights = [REFCOCO.weight, OCID.weight]
    for error in ERRORS:
        found = [scores(kind, FRAMES[1], error, FEWER_PARTS) for kind in (REFCOCO, OCID)]
        same, other = (FOUND * np.average([one[frame] for one in found], weights=weights) for frame in FRAMES[1::-1])
        lost = same - other
        lines.append(f"| {error:.0%} | {same:.1f} | {other:.1f} | {lost:.1f} | {LOCALIZATION_WEIGHT * lost:.1f} |")
    return lines


def tables() -> list[str]:
    """Return all that ``docs/collapse.md`` shows, line by line."""
    return [
        *pairs_table("perfect answers in", 0.0, PARTS),
        "",
        *pairs_table("imprecise answers in", IMPRECISE, FEWER_PARTS),
        "",
        *sizes_table(),
        "",
        *losses_table(),
    ]


if __name__ == "__main__":
    print("\n".join(tables()))
