"""Why localization answers are wrong, and the best that an arm's token grid would allow.

Every answer has exactly one fate, the first of these that holds:

* ``right``: the overlap (IoU) reaches the benchmark's threshold,
* ``unparsed``: the answer is no valid box,
* ``frame``: scored in another frame (`eyeswap.evaluation.frames`) the same numbers would be right,
* ``object``: IoU below 0.1, or the centre of the box lies outside the true box,
* ``loose``: on the object, but the overlap is under the threshold.

The ceiling asks how well a box would do whose edges lie on the borders of visual tokens: the largest IoU with each true
box. Nothing forbids a model to point between two borders, so it is a yardstick and no bound.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from eyeswap.data.formats import Box
from eyeswap.errors import DataError
from eyeswap.evaluation.boxes import iou_matrix, to_original
from eyeswap.geometry import ImageGeometry, Placement
from eyeswap.images import open_image
from eyeswap.report.analysis.pairs import RIGHT
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.results.readings import overlaps_of, readings
from eyeswap.results.scores import Predictions

FATES = ("right", "loose", "object", "frame", "unparsed")
FATE_TITLES = {
    "right": "right",
    "loose": "loose box",
    "object": "wrong object",
    "frame": "wrong frame",
    "unparsed": "not parsed",
}
MISSED = 0.1  # an overlap below this is none to speak of
DEFAULT_THRESHOLD = 0.5
MOST_TRUTHS = 1000  # a benchmark; enough for a mean to within a percent


@dataclass(frozen=True)
class Ceiling:
    """How well boxes made of whole tokens fit the true boxes.

    Attributes:
        n: true boxes looked at.
        mean_iou: mean of the best overlaps, in 0..1.
        reachable: share of true boxes whose best overlap reaches the threshold, %.
    """

    n: int
    mean_iou: float
    reachable: float


@dataclass(frozen=True)
class Grounding:
    """The fates of one arm's answers to one localization benchmark, all seeds together.

    Attributes:
        arm: the arm's name.
        benchmark: the benchmark's short name.
        title: its name for tables.
        threshold: IoU from which a box is right.
        n: answers.
        shares: fate to its share of the answers, %.
        lenient: share that would be right with the first box found anywhere in the answer, %; None if not recorded.
        ceiling: what the token grid allows; None where image sizes or the geometry are not known.
        box_frame: frame that counts.
        readings: frame to the score in it, %, all seeds together; None where it is not known.
    """

    arm: str
    benchmark: str
    title: str
    threshold: float
    n: int
    shares: dict[str, float]
    lenient: float | None
    ceiling: Ceiling | None
    box_frame: str
    readings: dict[str, float | None]


def grounding(results: StudyResults) -> list[Grounding]:
    """Return the fates of all localization answers, benchmark by benchmark, arms in the order of the study.

    Raises:
        DataError: if a prediction file lacks the columns of boxes, or a truth is no box.
    """
    sizes: dict[str, tuple[int, int] | None] = {}
    found = []
    for position, about in enumerate(results.benchmarks):
        if about.group != "localization":
            continue
        for arm in results.finished_arms:
            one = arm.runs[0].predictions[position]
            threshold = one.iou_threshold or DEFAULT_THRESHOLD
            counted = Counter(fate for run in arm.runs for fate in fates(run.predictions[position]))
            n = counted.total()
            shares = {fate: 100 * counted[fate] / n for fate in FATES}
            ceiling = _ceiling(one, threshold, arm, results.data_root, sizes)
            lenient, in_frames = _lenient(arm, position), _readings(arm, position, threshold)
            found.append(
                Grounding(
                    arm.name, one.name, one.title, threshold, n, shares, lenient, ceiling, one.box_frame, in_frames
                )
            )
    return found


def _readings(arm: Arm, position: int, threshold: float) -> dict[str, float | None]:
    """Return the score of an arm in each frame, the mean of its runs, %."""
    files = [run.predictions[position] for run in arm.runs]
    shares = [readings(overlaps_of(one.path.parents[1], one.table), threshold) for one in files]
    found: dict[str, float | None] = {}
    for frame in shares[0]:
        known = [share for each in shares if (share := each[frame]) is not None]
        found[frame] = 100 * sum(known) / len(known) if len(known) == len(shares) else None
    return found


def frames_table(found: Sequence[Grounding]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table with the score in every frame, %; the frame that counts is marked."""
    frames = list(found[0].readings)
    rows = []
    for one in found:
        values = (one.readings[frame] for frame in frames)
        texts = ["not known" if value is None else f"{value:.1f}" for value in values]
        marks = ["*" if frame == one.box_frame else "" for frame in frames]
        rows.append([one.title, one.arm, *(text + mark for text, mark in zip(texts, marks, strict=True))])
    return ["benchmark", "arm", *frames], rows


def frames_note(found: Sequence[Grounding]) -> str:
    """Return in which frame boxes are scored, in one sentence; empty without boxes."""
    frames = list(dict.fromkeys(one.box_frame for one in found if one.box_frame))
    return f"Boxes are scored in the frame {' and '.join(frames)}." if frames else ""


def fates(one: Predictions) -> list[str]:
    """Return the fate of every answer to a localization benchmark.

    Raises:
        DataError: if a column is missing, or a truth is no box.
    """
    threshold = one.iou_threshold or DEFAULT_THRESHOLD
    boxes, overlaps, truths = one.column("box"), one.column("iou"), true_boxes(one)
    others = overlaps_of(one.path.parents[1], one.table).values()
    return [
        _fate(score, box, overlap, max((other[row] or 0.0 for other in others), default=0.0), truth, threshold)
        for row, (score, box, overlap, truth) in enumerate(zip(one.score, boxes, overlaps, truths, strict=True))
    ]


def true_boxes(one: Predictions) -> list[Box]:
    """Return the true boxes of a localization benchmark, in 0..1 of the original image.

    Raises:
        DataError: naming file and row of the first truth that is no box.
    """
    found = []
    for row, text in enumerate(one.column("truth")):
        try:
            x1, y1, x2, y2 = (float(value) for value in json.loads(text))
        except (ValueError, TypeError):
            raise DataError(f"{one.path}: row {row}: truth {text!r} is not a box [x1, y1, x2, y2]") from None
        found.append((x1, y1, x2, y2))
    return found


def best_aligned_iou(truth: Box, placement: Placement, grid: tuple[int, int]) -> float:
    """Return the largest IoU of a true box with a box whose edges are borders of visual tokens.

    Moving an edge towards the true one never hurts, so each edge of the best box is the border just before or just
    behind the true edge: at most sixteen boxes to try. What sticks out of the image is cut, as an answer cannot.

    Args:
        truth: in 0..1 of the original image.
        placement: how the image lies on its canvas.
        grid: token rows and columns.
    """
    across, down = grid[1], grid[0]
    x1, y1, x2, y2 = placement.convert(truth, "image-unit", "canvas-unit")
    columns, rows = _spans(x1 * across, x2 * across, across), _spans(y1 * down, y2 * down, down)
    aligned = [
        to_original((left / across, top / down, right / across, bottom / down), placement)
        for (left, right), (top, bottom) in product(columns, rows)
    ]
    return float(iou_matrix(np.array([truth]), np.array(aligned)).max()) if aligned else 0.0


def _spans(start: float, end: float, most: int) -> list[tuple[int, int]]:
    """Return the pairs of borders around the two ends of an interval, given in tokens."""
    first, last = ({min(max(int(np.floor(edge)) + step, 0), most) for step in (0, 1)} for edge in (start, end))
    return [(a, b) for a, b in product(sorted(first), sorted(last)) if a < b]


def _fate(
    score: float, box: list[float] | None, overlap: float | None, best_overlap: float, truth: Box, threshold: float
) -> str:
    if score >= RIGHT:
        return "right"
    if box is None:
        return "unparsed"
    if best_overlap >= threshold:
        return "frame"
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = truth[0] <= x <= truth[2] and truth[1] <= y <= truth[3]
    return "loose" if inside and (overlap or 0.0) >= MISSED else "object"


def _lenient(arm: Arm, position: int) -> float | None:
    files = [run.predictions[position] for run in arm.runs]
    if any("lenient_iou" not in one.table.column_names for one in files):
        return None
    overlaps = [overlap for one in files for overlap in one.column("lenient_iou")]
    threshold = files[0].iou_threshold or DEFAULT_THRESHOLD
    return 100 * float(np.mean([(overlap or 0.0) >= threshold for overlap in overlaps]))


def _ceiling(
    one: Predictions, threshold: float, arm: Arm, root: Path, sizes: dict[str, tuple[int, int] | None]
) -> Ceiling | None:
    geometry, grid = _geometry(arm), arm.backbone.token_grid
    if geometry is None or not grid:
        return None
    best: list[float] = []
    for row in _some_rows(len(one.score)):
        image = str(one.image[row])
        if image not in sizes:
            sizes[image] = _size(root / image)
        size = sizes[image]
        if size is None:
            return None
        truth = json.loads(one.table.column("truth")[int(row)].as_py())
        best.append(best_aligned_iou(tuple(truth), geometry.placement(*size), (int(grid[0]), int(grid[1]))))
    reachable = 100 * float(np.mean(np.asarray(best) >= threshold))
    return Ceiling(len(best), float(np.mean(best)), reachable)


def _some_rows(n: int) -> NDArray[np.int64]:
    """Return all rows, or the same random ones every time where there are very many."""
    return np.arange(n) if n <= MOST_TRUTHS else np.sort(np.random.default_rng(0).permutation(n)[:MOST_TRUTHS])


def _geometry(arm: Arm) -> ImageGeometry | None:
    """Return how the arm's images were placed; None if not recorded, or if the token grid varies with the image."""
    try:
        geometry = ImageGeometry.model_validate(arm.backbone.geometry)
    except ValidationError:
        return None
    return None if geometry.strategy == "keep-ratio" else geometry


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return open_image(path).size
    except DataError:
        return None
