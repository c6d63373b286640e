"""Scores of a model that answers in one box frame and is scored in another, for all pairs of frames.

    python -m benchmarks.validity.frames

prints the tables of ``docs/collapse.md``. Nothing is random: image sizes have fixed shares; areas, aspect ratios and
positions of boxes are the midpoints of equal parts of fixed distributions; edges are off by fixed amounts. Every mean
is over all combinations, so the numbers are exact for these distributions. The frames are those that eyeswap scores in.
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

# Common sizes of COCO photographs, (width, height), and the shares assumed for them.
COCO_SIZES = {
    (640, 480): 0.35,
    (640, 427): 0.25,
    (500, 375): 0.10,
    (480, 640): 0.15,
    (427, 640): 0.10,
    (640, 640): 0.05,
}
PARTS = 9  # equal parts of each distribution of boxes
FEWER_PARTS = 4  # the same for imprecise answers, because each box then has 256 answers
ASPECT_SPREAD = 0.5  # standard deviation of the logarithm of the aspect ratio, width over height in pixels
LARGEST = 0.98  # side of the largest box, relative to that of the image
EDGE_STEPS = tuple(stats.norm.ppf((np.arange(4) + 0.5) / 4))  # four equally likely errors of standard deviation near 1


@dataclass(frozen=True)
class Benchmark:
    """The distribution of images and boxes in one kind of benchmark.

    Attributes:
        title: name for tables.
        sizes: image sizes and their shares.
        median_area: median area of a box relative to the image.
        area_spread: standard deviation of the logarithm of that area.
        aspect: median aspect ratio, width over height in pixels.
        crowding: concentration of positions in the middle of the image: both parameters of a beta distribution, 1 for
            none.
        threshold: smallest IoU of a correct answer.
        weight: number of examples of the full set.
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
LOCALIZATION_WEIGHT = (REFCOCO.weight + OCID.weight) / sum(each.num_published for each in BENCHMARKS.values())


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
    """Return the placement of an image in a frame."""
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
    """Return pixel boxes ``[n, 4]`` in 0..1 of a frame, clipped to it like ground-truth boxes."""
    placed = placement(frame, size)
    moved = boxes * np.tile(placed.scale, 2) + np.tile(placed.offset, 2)
    return np.clip(moved / np.tile(placed.canvas_size, 2), 0.0, 1.0)


def answers(truth: Floats, error: float) -> Floats:
    """Return a model's answers to ground-truth boxes ``[n, 4]`` in its frame, with two decimals: ``[k, n, 4]``.

    Args:
        truth: ground-truth boxes.
        error: standard deviation of each edge's error relative to the box's side; ``k`` is 1 for 0 and 256 otherwise.
    """
    steps = np.array(list(product(EDGE_STEPS, repeat=4))) if error else np.zeros((1, 4))
    sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    moved: Floats = np.round(np.clip(truth + error * steps[:, None] * sides, 0.0, 1.0), 2)
    return moved


def share_correct(predicted: Floats, truth: Floats, threshold: float) -> float:
    """Return the share of answers ``[k, n, 4]`` whose IoU with the ground truth ``[n, 4]`` reaches a threshold."""
    sides = np.minimum(predicted[..., 2:], truth[:, 2:]) - np.maximum(predicted[..., :2], truth[:, :2])
    overlap = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (predicted, truth)]
    valid = (predicted[..., 2:] > predicted[..., :2]).all(-1)
    union = areas[0] + areas[1] - overlap
    return float((valid & (overlap >= threshold * union) & (union > 0)).mean())


def scores(kind: Benchmark, answered: str, error: float = 0.0, parts: int = PARTS) -> dict[str, float]:
    """Return the score in percent, in each frame, of a model that always finds the object.

    Args:
        kind: the kind of benchmark.
        answered: frame of the answers.
        error: standard deviation of each edge's error relative to the box's side.
        parts: equal parts of each distribution of boxes.
    """
    percent = dict.fromkeys(FRAMES, 0.0)
    for size, share in kind.sizes.items():
        boxes = true_boxes(kind, size, parts)
        rounded = in_frame(boxes, FRAMES[0], size).round(2) * np.tile(size, 2)  # as the ground truth of full sets
        predicted = answers(in_frame(boxes, answered, size), error)
        for scored in FRAMES:
            percent[scored] += 100 * share * share_correct(predicted, in_frame(rounded, scored, size), kind.threshold)
    return percent


def pairs_table(title: str, error: float, parts: int) -> list[str]:
    """Return a Markdown table: answers in the frame of the row, ground truth in that of the column."""
    lines = [f"| {title} | " + " | ".join(FRAMES) + " |", "|---|" + "--:|" * len(FRAMES)]
    for answered in FRAMES:
        refcoco, ocid = (scores(kind, answered, error, parts) for kind in (REFCOCO, OCID))
        cells = [f"{refcoco[scored]:.0f} ({ocid[scored]:.0f})" for scored in FRAMES]
        lines.append(f"| {answered} | " + " | ".join(cells) + " |")
    return lines


def sizes_table() -> list[str]:
    """Return a Markdown table of the cost of confusing the two likely frames, by image size."""
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
    """Return a Markdown table of the localization score lost by confusing the two likely frames."""
    lines = ["| error of an edge | same frame | other frame | lost | lost overall |", "|--:|--:|--:|--:|--:|"]
    weights = [REFCOCO.weight, OCID.weight]
    for error in ERRORS:
        by_kind = [scores(kind, FRAMES[1], error, FEWER_PARTS) for kind in (REFCOCO, OCID)]
        same, other = (FOUND * np.average([of[frame] for of in by_kind], weights=weights) for frame in FRAMES[1::-1])
        lost = same - other
        lines.append(f"| {error:.0%} | {same:.1f} | {other:.1f} | {lost:.1f} | {LOCALIZATION_WEIGHT * lost:.1f} |")
    return lines


def tables() -> list[str]:
    """Return the lines of the tables in ``docs/collapse.md``."""
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
