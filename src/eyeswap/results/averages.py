"""How benchmarks enter an average: "vqa", "localization" and "overall".

Every reported column weighs as many examples as it has, as in the published study, where VQA v2 alone is 74 % of
"vqa" and "vqa" 87 % of "overall"; TextVQA counts twice, with and without OCR tokens. Of slim sets, which hold as many
examples of each benchmark, the published counts may be taken as weights instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError
from eyeswap.evaluation import BENCHMARKS
from eyeswap.statistics.crossed import SeedVariance
from eyeswap.statistics.differences import sample_intervals
from eyeswap.statistics.resampling import Interval, Sample

GROUPS = ("vqa", "localization")
Weights = Literal["counts", "published"]


@dataclass(frozen=True)
class Piece:
    """Scores whose plain mean enters an average with one weight.

    Attributes:
        weight: in examples.
        score: ``[S, n]`` in 0..1, one row a seed.
        baseline: ``[S, n]`` scores of the trivial baseline, all rows equal.
        image: ``[n]`` image paths, what resampling keeps together.
    """

    weight: float
    score: NDArray[np.float64]
    baseline: NDArray[np.float64]
    image: NDArray[np.str_]


def members(groups: Sequence[str]) -> dict[str, list[int]]:
    """Return which benchmarks, by position, each average has, given the group of each; empty averages are left out."""
    found = {group: [i for i, one in enumerate(groups) if one == group] for group in GROUPS}
    found["overall"] = list(range(len(groups)))
    return {name: positions for name, positions in found.items() if positions}


def pieces(
    name: str,
    score: NDArray[np.float64],
    baseline: NDArray[np.float64],
    image: NDArray[np.str_],
    subset: NDArray[np.str_],
    weights: Weights = "counts",
) -> list[Piece]:
    """Return a benchmark's examples in one piece, or in a piece a subset if its score is the mean of its subsets.

    Args:
        name: the benchmark.
        score: ``[n]`` in 0..1, or ``[S, n]`` of ``S`` seeds.
        baseline: ``[n]`` scores of the trivial baseline.
        image: ``[n]`` image paths.
        subset: ``[n]`` subset of each example.
        weights: by the examples at hand, or by those of the full published set.
    """
    published = BENCHMARKS.get(name)
    score = np.atleast_2d(score)
    baseline = np.broadcast_to(baseline, score.shape)
    total = published.num_published if published and weights == "published" else len(image)
    if published is None or not published.averages_subsets:
        return [Piece(total, score, baseline, image)]
    parts = [subset == part for part in np.unique(subset)]
    return [Piece(total / len(parts), score[:, part], baseline[:, part], image[part]) for part in parts]


def average(parts: Sequence[Piece], seeds: SeedVariance | None = None) -> Interval:
    """Return the weighted average of the pieces' means, as a fraction with its interval.

    Args:
        parts: of one arm.
        seeds: the variance of training runs, if more is known of it than the arm's own seeds tell.
    """
    return sample_intervals(gather_pieces([parts]), seeds=seeds)[0]


def gain(parts: Sequence[Piece], seeds: SeedVariance | None = None) -> Interval:
    """Return by how much the weighted average lies above that of the trivial baselines; arguments as `average`."""
    above = [replace(part, score=part.score - part.baseline) for part in parts]
    return sample_intervals(gather_pieces([above]), bounds=(-1.0, 1.0), seeds=seeds)[0]


def gather_pieces(arms: Sequence[Sequence[Piece]]) -> Sample:
    """Gather the pieces of several arms, on the same examples and with as many seeds each, into one sample.

    Raises:
        DataError: if pieces differ in length or seeds.
    """
    shapes = {tuple(part.score.shape for part in parts) for parts in arms}
    if len(shapes) > 1:
        raise DataError(f"arms of unequal shape cannot be paired: {', '.join(map(str, sorted(shapes)))}")
    scores = [np.stack([part.score for part in same]) for same in zip(*arms, strict=True)]
    return Sample(scores, [part.image for part in arms[0]], [part.weight for part in arms[0]])
