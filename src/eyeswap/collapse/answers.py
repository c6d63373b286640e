"""The answers of a run to benchmarks that ask for boxes, as arrays, and the other ways in which they can be read.

A model may point at the right things and score nothing: its boxes are fractions of something else (a *frame*), or
have the right centre and a wrong size. Each such reading gives every answer another score, measured like the one that
counts.
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

# What frames of boxes are called; the plain ones first, because the study's is mostly one of them.
FRAMES = {frame: f"the {FRAME_TITLES[frame]}" for frame in sorted(FRAME_TITLES, key="study".__eq__)}
TRUE_SIZES = "true sizes"
_PLACES = 17  # along each axis, tried for the best constant centre


@dataclass(frozen=True)
class Answers:
    """The answers to one benchmark; ``n`` examples, boxes in 0..1 of the original image.

    Attributes:
        name: the benchmark's short name.
        title: its name for tables.
        threshold: overlap from which a box is right.
        image: ``[n]`` image paths, what resampling keeps together.
        subset: ``[n]`` subset of each example.
        score: ``[n]`` in 0..1, as it counts.
        constant: ``[n]`` scores of the best constant box.
        box: ``[n, 4]``, ``(x1, y1, x2, y2)``; NaN where the answer is no box.
        truth: ``[n, 4]``.
        frames: key of `FRAMES` to the ``[n]`` scores that the answers have in this frame.
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
    def of(cls, one: Predictions) -> Self:
        """Take the arrays from stored predictions.

        Raises:
            DataError: if a column is missing, or a box or a truth is not four numbers.
        """
        threshold = one.iou_threshold or 0.5
        truth = _boxes(one, "truth", map(json.loads, one.column("truth")))
        return cls(
            name=one.name,
            title=one.title,
            threshold=threshold,
            image=one.image,
            subset=np.asarray(one.column("subset"), np.str_),
            score=one.score,
            constant=_constant_box_score(one, truth, threshold),
            box=_boxes(one, "box", ([np.nan] * 4 if box is None else box for box in one.column("box"))),
            truth=truth,
            frames=_frame_scores(one, threshold),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return some of the examples, by row number."""
        arrays = {name: getattr(self, name)[rows] for name in ("image", "subset", "score", "constant", "box", "truth")}
        return replace(self, **arrays, frames={frame: scores[rows] for frame, scores in self.frames.items()})

    def scores(self, reading: str) -> Floats:
        """Return the scores ``[n]`` in a frame, where that is known, or as if each box had the size of the true one."""
        if reading != TRUE_SIZES:
            return self.frames.get(reading, self.score)
        return _with_true_sizes((self.box[:, :2] + self.box[:, 2:]) / 2, self.truth, self.threshold)

    def baseline(self, reading: str) -> Floats:
        """Return the scores ``[n]`` of the best constant box, or of the best constant centre with the true sizes."""
        return self._constant_centre if reading == TRUE_SIZES else self.constant

    @cached_property
    def _constant_centre(self) -> Floats:
        places = np.linspace(0, 1, _PLACES)
        centres = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 1, 2)
        hits = np.concatenate(
            [_with_true_sizes(some, self.truth, self.threshold).mean(1) for some in np.array_split(centres, _PLACES)]
        )
        return _with_true_sizes(centres[int(np.argmax(hits))], self.truth, self.threshold)

    def pieces(self, baseline: Floats) -> list[Piece]:
        """Return the pieces that enter averages, with a baseline ``[n]``."""
        return averages.pieces(self.name, self.score, baseline, self.image, self.subset)


def _with_true_sizes(centre: Floats, truth: Floats, threshold: float) -> Floats:
    """Return which boxes ``[..., n]`` would be right with these centres ``[..., n, 2]`` and the true boxes' sizes.

    Two boxes of one size whose centres differ by the shares ``a`` and ``b`` of it share ``s = (1 - a)(1 - b)`` of their
    area, which is an IoU of ``s / (2 - s)``.
    """
    size = truth[:, 2:] - truth[:, :2]  # [n, 2]
    apart = np.abs(centre - (truth[:, :2] + truth[:, 2:]) / 2)  # [..., n, 2]
    with np.errstate(divide="ignore", invalid="ignore"):  # a true box without area is never hit
        shared = np.clip(1 - apart / size, 0, 1).prod(-1)
    return np.asarray(shared >= threshold * (2 - shared), dtype=np.float64)  # false for NaN


def _constant_box_score(one: Predictions, truth: Floats, threshold: float) -> Floats:
    """Return the scores of the best constant box: found in training, else on these very examples."""
    if one.baseline.startswith("constant box"):
        return one.baseline_score
    box = np.asarray([best_constant_box(truth, threshold)])
    return np.asarray(iou_matrix(box, truth)[0] >= threshold, dtype=np.float64)


def _frame_scores(one: Predictions, threshold: float) -> dict[str, Floats]:
    """Return the scores in each frame that is known; an answer without an overlap is wrong."""
    overlaps = overlaps_of(one.path.parents[1], one.table)
    return {
        frame: np.asarray(np.array(rows, dtype=np.float64) >= threshold, dtype=np.float64)  # false for NaN
        for frame, rows in overlaps.items()
    }


def _boxes(one: Predictions, column: str, values: Iterable[Any]) -> Floats:
    try:
        return np.array(list(values), dtype=np.float64).reshape(len(one.score), 4)
    except (ValueError, TypeError):
        raise DataError(f"{one.path}: a {column} is no box of four numbers") from None
