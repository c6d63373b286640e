"""Trivial baselines, fitted on training examples only: the score of an answerer that never sees the image.

For text and choices the baseline is the most frequent answer to each kind of question; for boxes it is the constant box
that is right most often. Without training examples (POPE has none) it is a fixed constant, and its title says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from eyeswap.data.formats import Box, Example
from eyeswap.data.formats.boxes import format_box
from eyeswap.errors import DataError, MissingFileError
from eyeswap.evaluation.benchmark import Benchmark
from eyeswap.evaluation.boxes import iou_matrix

ANY_KIND = ""  # every kind that does not occur in training
_MOST_CANDIDATES = 512
_STEPS = (0.08, 0.04, 0.02, 0.01)


@dataclass(frozen=True)
class TrivialBaseline:
    """An answerer of one benchmark that ignores the image.

    Attributes:
        benchmark: the benchmark.
        title: how it answers, for tables.
        answers: answer text by kind of question; ``ANY_KIND`` is for all other kinds.
    """

    benchmark: Benchmark
    title: str
    answers: Mapping[str, str]

    @classmethod
    def of(cls, benchmark: Benchmark, root: Path) -> Self:
        """Fit the answers on the training split below ``root``, or take a constant if it is not on disk.

        Raises:
            DataError: naming file and row, if the training files exist but are malformed.
        """
        try:
            return cls.fit(benchmark, benchmark.examples(root, "train"))
        except MissingFileError:
            answer = format_box((0, 0, 1, 1)) if benchmark.answer_kind == "box" else (*benchmark.choices, "yes")[0]
            return cls(benchmark, f'always "{answer}" (no training split on disk)', {ANY_KIND: answer})

    @classmethod
    def fit(cls, benchmark: Benchmark, train_examples: Sequence[Example]) -> Self:
        """Fit the answers on training examples.

        Raises:
            DataError: if there is no example, or the ground truth of a box benchmark is not a box.
        """
        if benchmark.answer_kind != "box":
            return cls(benchmark, "most frequent answer by kind", majority_answers(train_examples))
        boxes = [_true_box(example) for example in train_examples]
        text = format_box(best_constant_box(boxes, benchmark.iou_threshold))
        return cls(benchmark, f"constant box {text}", {ANY_KIND: text})

    def score(self, example: Example) -> float:
        """Return the baseline's score on an example, 0..1."""
        answer = self.answers.get(example.kind, self.answers[ANY_KIND])
        return self.benchmark.score(example, answer).score


def _true_box(example: Example) -> list[float]:
    if not isinstance(example.truth, tuple) or len(example.truth) != 4:
        raise DataError(f"example {example.example_id}: truth must be a box, found {example.truth!r}")
    return [float(value) for value in example.truth]


def majority_answers(train_examples: Iterable[Example]) -> dict[str, str]:
    """Return the most frequent answer of each question kind, and of all kinds together under ``ANY_KIND``.

    Each example has one vote, divided among its human answers; ties are broken alphabetically.

    Raises:
        DataError: if there is no example.
    """
    votes: dict[str, dict[str, float]] = {}
    for example in train_examples:
        truth = example.truth
        answers = [str(answer) for answer in truth] if isinstance(truth, tuple) else [str(truth)]
        for kind in (example.kind, ANY_KIND):
            for answer in answers:
                of_kind = votes.setdefault(kind, {})
                of_kind[answer] = of_kind.get(answer, 0.0) + 1 / len(answers)
    if not votes:
        raise DataError("the majority answer needs at least one training example")
    return {kind: max(sorted(counts), key=counts.__getitem__) for kind, counts in votes.items()}


def best_constant_box(boxes: Sequence[Sequence[float]] | NDArray[np.float64], threshold: float) -> Box:
    """Return the box, in two decimals, whose IoU with most training boxes reaches ``threshold``.

    The search is deterministic: it starts from the best training box (of an evenly spaced 512), then moves single sides
    and the whole box in steps from 0.08 down to 0.01 while that helps. Mean IoU breaks ties.

    Args:
        boxes: ``[n, 4]``, ``(x1, y1, x2, y2)`` in 0..1.
        threshold: IoU from which a box counts as right.

    Raises:
        DataError: if there is no box.
    """
    targets = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not len(targets):
        raise DataError("the constant box needs at least one training box")
    picks = np.linspace(0, len(targets) - 1, min(len(targets), _MOST_CANDIDATES)).round().astype(int)
    best, value = _best(np.vstack([targets[picks].round(2), [[0.0, 0.0, 1.0, 1.0]]]), targets, threshold)
    for step in _STEPS:
        while True:
            moved, moved_value = _best(np.clip(best + step * _MOVES, 0, 1).round(2), targets, threshold)
            if moved_value <= value:
                break
            best, value = moved, moved_value
    x1, y1, x2, y2 = best.tolist()
    return (x1, y1, x2, y2)


# Moves of single sides, shifts, and growing or shrinking along one axis or both.
_MOVES = np.array(
    [
        [sign * left, sign * top, sign * right, sign * bottom]
        for sign in (1, -1)
        for left, top, right, bottom in [
            (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1),
            (1, 0, 1, 0), (0, 1, 0, 1), (1, 1, 1, 1), (1, -1, 1, -1),
            (1, 0, -1, 0), (0, 1, 0, -1), (1, 1, -1, -1),
        ]
    ],
    dtype=np.float64,
)  # fmt: skip


def _best(
    candidates: NDArray[np.float64], targets: NDArray[np.float64], threshold: float
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return the first best candidate and its (hit rate, mean IoU)."""
    has_area = (candidates[:, 2] > candidates[:, 0]) & (candidates[:, 3] > candidates[:, 1])
    candidates = candidates[has_area]
    overlap = iou_matrix(candidates, targets)  # [k, n]
    values = list(zip((overlap >= threshold).mean(1).tolist(), overlap.mean(1).tolist(), strict=True))
    index = max(range(len(values)), key=values.__getitem__)
    return candidates[index], values[index]
