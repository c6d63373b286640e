"""The predicted boxes of a run as arrays, and alternative readings of them.

A model may locate objects and still score nothing: its boxes may be fractions of another *frame*, or have the right
centre but the wrong size. Under each such reading the answers have other scores, measured like the one that counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError
from eyeswap.evaluation.baselines import best_constant_box
from eyeswap.evaluation.boxes import iou_matrix
from eyeswap.evaluation.frames import FRAME_TITLES
from eyeswap.results import averages
from eyeswap.results.averages import Piece
from eyeswap.results.readings import overlaps_of
from eyeswap.results.scores import Predictions

Floats = NDArray[np.float64]

# Names of box frames; "study" comes last, because it mostly coincides with one of the others.
FRAMES = {frame: f"the {FRAME_TITLES[frame]}" for frame in sorted(FRAME_TITLES, key="study".__eq__)}
TRUE_SIZES = "true sizes"
_GRID = 17  # candidate centres along each axis for the best constant centre


@dataclass(frozen=True)
class Answers:
    """The answers to one benchmark with ``n`` examples; boxes are in 0..1 of the original image.

    Attributes:
        name: the benchmark's short name.
        title: the benchmark's name for tables.
        threshold: smallest IoU of a correct box.
        image: ``[n]`` image paths, the units of resampling.
        subset: ``[n]`` subset of each example.
        score: ``[n]`` in 0..1, in the reading that counts.
        constant: ``[n]`` scores of the best constant box.
        box: ``[n, 4]``, ``(x1, y1, x2, y2)``; NaN where the answer is not a box.
        truth: ``[n, 4]`` ground-truth boxes.
        frames: key of `FRAMES` to the ``[n]`` scores in this frame.
    """

    name: str
    title: str
    threshold: float
    image: NDArray[np.str_]
    subset: NDArray[np.str_]
    score: Floats
    constant: Floats
    box: Floats
    truth: Floats
    frames: Mapping[str, Floats]

    @classmethod
    def of(cls, predictions: Predictions) -> Self:
        """Return the answers in stored predictions.

        Raises:
            DataError: if a column is missing, or a box or ground truth is not four numbers.
        """
        threshold = predictions.iou_threshold or 0.5
        truth = _boxes(predictions, "truth", map(json.loads, predictions.column("truth")))
        boxes = ([np.nan] * 4 if box is None else box for box in predictions.column("box"))
        return cls(
            name=predictions.name,
            title=predictions.title,
            threshold=threshold,
            image=predictions.image,
            subset=np.asarray(predictions.column("subset"), np.str_),
            score=predictions.score,
            constant=_constant_box_score(predictions, truth, threshold),
            box=_boxes(predictions, "box", boxes),
            truth=truth,
            frames=_frame_scores(predictions, threshold),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the examples with the given row numbers."""
        arrays = {name: getattr(self, name)[rows] for name in ("image", "subset", "score", "constant", "box", "truth")}
        return replace(self, **arrays, frames={frame: scores[rows] for frame, scores in self.frames.items()})

    def scores(self, reading: str) -> Floats:
        """Return the scores ``[n]`` in a frame (if it is known), or as if each box had its ground truth's size."""
        if reading != TRUE_SIZES:
            return self.frames.get(reading, self.score)
        return _with_true_sizes((self.box[:, :2] + self.box[:, 2:]) / 2, self.truth, self.threshold)

    def baseline(self, reading: str) -> Floats:
        """Return the scores ``[n]`` of the best constant box, or of the best constant centre with true sizes."""
        return self._constant_centre if reading == TRUE_SIZES else self.constant

    @cached_property
    def _constant_centre(self) -> Floats:
        grid = np.linspace(0, 1, _GRID)
        centres = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 1, 2)
        hits = np.concatenate(  # in blocks, to bound memory
            [_with_true_sizes(block, self.truth, self.threshold).mean(1) for block in np.array_split(centres, _GRID)]
        )
        return _with_true_sizes(centres[int(np.argmax(hits))], self.truth, self.threshold)

    def pieces(self, baseline: Floats) -> list[Piece]:
        """Return the pieces of an average, with a baseline ``[n]``."""
        return averages.pieces(self.name, self.score, baseline, self.image, self.subset)


def _with_true_sizes(centre: Floats, truth: Floats, threshold: float) -> Floats:
    """Return which boxes ``[..., n]`` are correct if they have the given centres ``[..., n, 2]`` and the true sizes.

    Two boxes of equal size whose centres differ by fractions ``a`` and ``b`` of it share ``s = (1 - a)(1 - b)`` of
    their area, so that their IoU is ``s / (2 - s)``.
    """
    size = truth[:, 2:] - truth[:, :2]  # [n, 2]
    offset = np.abs(centre - (truth[:, :2] + truth[:, 2:]) / 2)  # [..., n, 2]
    with np.errstate(divide="ignore", invalid="ignore"):  # a ground truth without area is never hit
        shared = np.clip(1 - offset / size, 0, 1).prod(-1)
    return np.asarray(shared >= threshold * (2 - shared), dtype=np.float64)  # false for NaN


def _constant_box_score(predictions: Predictions, truth: Floats, threshold: float) -> Floats:
    """Return the scores of the best constant box: that of the training split if known, or that of these examples."""
    if predictions.baseline.startswith("constant box"):
        return predictions.baseline_score
    box = np.asarray([best_constant_box(truth, threshold)])
    return np.asarray(iou_matrix(box, truth)[0] >= threshold, dtype=np.float64)


def _frame_scores(predictions: Predictions, threshold: float) -> dict[str, Floats]:
    """Return the scores in each known frame; an answer without an IoU is wrong."""
    overlaps = overlaps_of(predictions.path.parents[1], predictions.table)
    return {
        frame: np.asarray(np.array(rows, dtype=np.float64) >= threshold, dtype=np.float64)  # false for NaN
        for frame, rows in overlaps.items()
    }


def _boxes(predictions: Predictions, column: str, values: Iterable[Any]) -> Floats:
    try:
        return np.array(list(values), dtype=np.float64).reshape(len(predictions.score), 4)
    except (ValueError, TypeError):
        raise DataError(f"{predictions.path}: a {column} is not a box of four numbers") from None
