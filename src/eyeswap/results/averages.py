"""Weighted averages over benchmarks: "vqa", "localization" and "overall".

Benchmarks are weighted by their numbers of examples, as in the published study, where VQA v2 alone is 74% of "vqa" and
"vqa" 87% of "overall"; TextVQA counts twice, with and without OCR tokens. For subsets that have the same number of
examples of every benchmark, the published counts can be used as weights instead.
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
    """Scores whose unweighted mean enters an average with one weight.

    Attributes:
        weight: number of examples it counts for.
        score: ``[S, n]`` in 0..1, one row per seed.
        baseline: ``[S, n]`` scores of the trivial baseline, all rows equal.
        image: ``[n]`` image paths, the units of resampling.
    """

    weight: float
    score: NDArray[np.float64]
    baseline: NDArray[np.float64]
    image: NDArray[np.str_]


def members(groups: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of the benchmarks in each average, given the benchmarks' groups; without empty averages."""
    averages = {name: [i for i, group in enumerate(groups) if group == name] for name in GROUPS}
    averages["overall"] = list(range(len(groups)))
    return {name: positions for name, positions in averages.items() if positions}


def pieces(
    name: str,
    score: NDArray[np.float64],
    baseline: NDArray[np.float64],
    image: NDArray[np.str_],
    subset: NDArray[np.str_],
    weights: Weights = "counts",
) -> list[Piece]:
    """Return a benchmark's examples as one piece, or as one piece per subset if its score is the mean of its subsets.

    Args:
        name: the benchmark.
        score: ``[n]`` in 0..1, or ``[S, n]`` for ``S`` seeds.
        baseline: ``[n]`` scores of the trivial baseline.
        image: ``[n]`` image paths.
        subset: ``[n]`` subset of each example.
        weights: weight by the number of examples given, or by that of the full published set.
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
    """Return the weighted average of the pieces' means with its interval, as fractions.

    Args:
        parts: the pieces of one arm.
        seeds: the variance between training runs, if it is known better than from the arm's own seeds.
    """
    return sample_intervals(gather_pieces([parts]), seeds=seeds)[0]


def gain(parts: Sequence[Piece], seeds: SeedVariance | None = None) -> Interval:
    """Return the paired difference to the weighted average of the trivial baselines; arguments as `average`.

    Unlike another arm, the baseline has no training runs, so that only the arm's own vary.
    """
    differences = [replace(part, score=part.score - part.baseline) for part in parts]
    return sample_intervals(gather_pieces([differences]), bounds=(-1.0, 1.0), seeds=seeds)[0]


def gather_pieces(arms: Sequence[Sequence[Piece]]) -> Sample:
    """Combine the pieces of several arms, on the same examples and with the same number of seeds, into one sample.

    Raises:
        DataError: if the arms differ in the numbers of examples or seeds.
    """
    shapes = {tuple(part.score.shape for part in parts) for parts in arms}
    if len(shapes) > 1:
        raise DataError(f"arms differ in numbers of seeds or examples: {', '.join(map(str, sorted(shapes)))}")
    scores = [np.stack([part.score for part in same_piece]) for same_piece in zip(*arms, strict=True)]
    return Sample(scores, [part.image for part in arms[0]], [part.weight for part in arms[0]])
