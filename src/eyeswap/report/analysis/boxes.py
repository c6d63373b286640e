"""Error analysis of localization answers, and the best IoU at the resolution of an arm's token grid.

Every answer has exactly one outcome ("fate"), the first of these that applies:

* ``right``: the IoU reaches the benchmark's threshold,
* ``unparsed``: the answer is not a valid box,
* ``frame``: the same numbers would be correct in another box frame (`eyeswap.evaluation.frames`),
* ``object``: the IoU is below 0.1, or the centre of the box lies outside the ground-truth box,
* ``loose``: on the object, but the IoU is below the threshold.

The ceiling is the largest IoU with the ground truth of a box whose edges lie on the borders of visual tokens. A model
may well predict coordinates between two borders, so it is a reference point, not a bound.
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
MISSED = 0.1  # boxes with a smaller IoU are on another object
DEFAULT_THRESHOLD = 0.5
MAX_TRUTHS = 1000  # ground-truth boxes per benchmark; enough for a mean to within a percent


@dataclass(frozen=True)
class Ceiling:
    """How well boxes of whole tokens fit the ground truth.

    Attributes:
        n: number of ground-truth boxes.
        mean_iou: mean of their best IoU, in 0..1.
        reachable: share whose best IoU reaches the threshold, %.
    """

    n: int
    mean_iou: float
    reachable: float


@dataclass(frozen=True)
class Grounding:
    """The fates of one arm's answers to one localization benchmark, over all seeds.

    Attributes:
        arm: the arm's name.
        benchmark: the benchmark's short name.
        title: the benchmark's name for tables.
        threshold: smallest IoU of a correct box.
        n: number of answers.
        shares: fate to its share of the answers, %.
        lenient: share that is correct with the first box found anywhere in the answer, %; None if not recorded.
        ceiling: the best fit at the resolution of the token grid; None if image sizes or geometry are unknown.
        box_frame: frame that boxes are scored in.
        readings: frame to the score in it, %; None where it is unknown.
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
    """Return the fates of all localization answers, by benchmark, arms in the order of the study.

    Raises:
        DataError: if a prediction file lacks the columns of boxes, or a ground truth is not a box.
    """
    sizes: dict[str, tuple[int, int] | None] = {}
    rows = []
    for position, benchmark in enumerate(results.benchmarks):
        if benchmark.group != "localization":
            continue
        for arm in results.finished_arms:
            first = arm.runs[0].predictions[position]
            threshold = first.iou_threshold or DEFAULT_THRESHOLD
            counts = Counter(fate for run in arm.runs for fate in fates(run.predictions[position]))
            rows.append(
                Grounding(
                    arm=arm.name,
                    benchmark=first.name,
                    title=first.title,
                    threshold=threshold,
                    n=counts.total(),
                    shares={fate: 100 * counts[fate] / counts.total() for fate in FATES},
                    lenient=_lenient(arm, position),
                    ceiling=_ceiling(first, threshold, arm, results.data_root, sizes),
                    box_frame=first.box_frame,
                    readings=_readings(arm, position, threshold),
                )
            )
    return rows


def _readings(arm: Arm, position: int, threshold: float) -> dict[str, float | None]:
    """Return the score of an arm in each frame, the mean over its runs, %."""
    predictions = [run.predictions[position] for run in arm.runs]
    shares = [readings(overlaps_of(of_run.path.parents[1], of_run.table), threshold) for of_run in predictions]
    means: dict[str, float | None] = {}
    for frame in shares[0]:
        known = [share for of_run in shares if (share := of_run[frame]) is not None]
        means[frame] = 100 * sum(known) / len(known) if len(known) == len(shares) else None
    return means


def frames_table(rows: Sequence[Grounding]) -> tuple[list[str], list[list[str]]]:
    """Return head and body of a table with the score in every frame, %; the frame that counts is marked."""
    frames = list(rows[0].readings)
    body = []
    for row in rows:
        values = (row.readings[frame] for frame in frames)
        texts = ["unknown" if value is None else f"{value:.1f}" for value in values]
        marks = ["*" if frame == row.box_frame else "" for frame in frames]
        body.append([row.title, row.arm, *(text + mark for text, mark in zip(texts, marks, strict=True))])
    return ["benchmark", "arm", *frames], body


def frames_note(rows: Sequence[Grounding]) -> str:
    """Return sentences with the frame that boxes, and the trivial baseline's, are scored in; empty without boxes."""
    frames = list(dict.fromkeys(row.box_frame for row in rows if row.box_frame))
    if not frames:
        return ""
    baseline = "" if frames == ["original"] else " The constant box of the trivial baseline is scored in original."
    return f"Boxes are scored in the frame {' and '.join(frames)}.{baseline}"


def fates(predictions: Predictions) -> list[str]:
    """Return the fate of every answer to a localization benchmark.

    Raises:
        DataError: if a column is missing, or a ground truth is not a box.
    """
    threshold = predictions.iou_threshold or DEFAULT_THRESHOLD
    boxes, overlaps, truths = predictions.column("box"), predictions.column("iou"), true_boxes(predictions)
    others = overlaps_of(predictions.path.parents[1], predictions.table).values()
    return [
        _fate(score, box, overlap, max((other[row] or 0.0 for other in others), default=0.0), truth, threshold)
        for row, (score, box, overlap, truth) in enumerate(zip(predictions.score, boxes, overlaps, truths, strict=True))
    ]


def true_boxes(predictions: Predictions) -> list[Box]:
    """Return the ground-truth boxes of a localization benchmark, in 0..1 of the original image.

    Raises:
        DataError: if a ground truth is not a box; the message names file and row.
    """
    boxes = []
    for row, text in enumerate(predictions.column("truth")):
        try:
            x1, y1, x2, y2 = (float(value) for value in json.loads(text))
        except (ValueError, TypeError):
            raise DataError(f"{predictions.path}: row {row}: truth {text!r} is not a box [x1, y1, x2, y2]") from None
        boxes.append((x1, y1, x2, y2))
    return boxes


def best_aligned_iou(truth: Box, placement: Placement, grid: tuple[int, int]) -> float:
    """Return the largest IoU of a ground-truth box with a box whose edges lie on the borders of visual tokens.

    Moving an edge towards the true one never lowers the IoU, so each edge of the best box is the border just before or
    just after the true edge, which leaves at most sixteen boxes to try. They are clipped to the image.

    Args:
        truth: box in 0..1 of the original image.
        placement: placement of the image on its canvas.
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


def _spans(start: float, end: float, num_tokens: int) -> list[tuple[int, int]]:
    """Return the pairs of borders around the two ends of an interval, in tokens."""
    first, last = ({min(max(int(np.floor(edge)) + step, 0), num_tokens) for step in (0, 1)} for edge in (start, end))
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
    predictions = [run.predictions[position] for run in arm.runs]
    if any("lenient_iou" not in of_run.table.column_names for of_run in predictions):
        return None
    overlaps = [overlap for of_run in predictions for overlap in of_run.column("lenient_iou")]
    threshold = predictions[0].iou_threshold or DEFAULT_THRESHOLD
    return 100 * float(np.mean([(overlap or 0.0) >= threshold for overlap in overlaps]))


def _ceiling(
    predictions: Predictions, threshold: float, arm: Arm, root: Path, sizes: dict[str, tuple[int, int] | None]
) -> Ceiling | None:
    geometry, grid = _geometry(arm), arm.backbone.token_grid
    if geometry is None or not grid:
        return None
    best: list[float] = []
    for row in _sampled_rows(len(predictions.score)):
        image = str(predictions.image[row])
        if image not in sizes:
            sizes[image] = _size(root / image)
        size = sizes[image]
        if size is None:
            return None
        truth = json.loads(predictions.table.column("truth")[int(row)].as_py())
        best.append(best_aligned_iou(tuple(truth), geometry.placement(*size), (int(grid[0]), int(grid[1]))))
    reachable = 100 * float(np.mean(np.asarray(best) >= threshold))
    return Ceiling(len(best), float(np.mean(best)), reachable)


def _sampled_rows(n: int) -> NDArray[np.int64]:
    """Return all rows, or a fixed random sample if there are very many."""
    return np.arange(n) if n <= MAX_TRUTHS else np.sort(np.random.default_rng(0).permutation(n)[:MAX_TRUTHS])


def _geometry(arm: Arm) -> ImageGeometry | None:
    """Return the arm's geometry; None if it was not recorded, or if the token grid varies with the image."""
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
