"""How sure a score is: intervals, paired differences, and tests that survive many comparisons.

Questions about one image rise and fall together, so what is resampled is the image, never the question.
One resample gives every image a weight drawn from Exp(1) and takes weighted means: the Bayesian bootstrap
(Rubin 1981, The Annals of Statistics 9:130). Unlike drawing with replacement it never leaves a small
benchmark empty, and an image that serves several benchmarks has one weight in all of them. Scores are
fractions here; they become percent where they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from eyeswap.errors import DataError

Floats = NDArray[np.float64]

LEVEL = 0.95
NUM_RESAMPLES = 1000
_CHUNK = 4_000_000  # weights held in memory at once


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval.

    Attributes:
        value: the estimate on the data as they are.
        low: 2.5% quantile of the resampled values.
        high: 97.5% quantile of the resampled values.
        standard_error: standard deviation of the resampled values.
        num_clusters: number of images it rests on.
    """

    value: float
    low: float
    high: float
    standard_error: float
    num_clusters: int

    def p_value(self) -> float:
        """Return the two-sided p-value of "the true value is zero".

        ``t = value / standard_error`` on ``num_clusters - 1`` degrees of freedom. Without any spread the
        exact sign test takes over: ``m`` images that all say the same sign have ``p = 2 / 2**m``.
        """
        if self.value == 0.0:
            return 1.0
        if self.standard_error == 0.0:
            return min(1.0, 2.0 * 0.5**self.num_clusters)
        t = abs(self.value) / self.standard_error
        return float(2.0 * stats.t.sf(t, max(self.num_clusters - 1, 1)))


def bootstrap_mean(
    scores: ArrayLike, clusters: ArrayLike, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of ``scores`` with an interval that resamples whole clusters.

    Args:
        scores: ``[n]``, each in 0..1.
        clusters: ``[n]``, what may not be torn apart, usually the image of each example.
        num_resamples: resamples ``R``.
        seed: seed of the resampling; equal seeds give equal intervals.

    Raises:
        DataError: if there are no scores, or lengths differ, or a score is not finite.
    """
    return weighted_average([scores], [clusters], num_resamples=num_resamples, seed=seed)


def paired_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    clusters: ArrayLike,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Return the mean of ``scores_a - scores_b`` on the same examples with its interval, and its p-value.

    Args:
        scores_a: ``[n]`` scores of the first arm, each in 0..1.
        scores_b: ``[n]`` scores of the second arm on the same examples in the same order.
        clusters: ``[n]``, the image of each example.
        num_resamples: resamples ``R``.
        seed: seed of the resampling.

    Raises:
        DataError: as `bootstrap_mean`.
    """
    return weighted_difference([scores_a], [scores_b], [clusters], num_resamples=num_resamples, seed=seed)


def weighted_average(
    scores: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Return ``sum_b w_b * mean_b / sum_b w_b`` over benchmarks with its interval.

    Args:
        scores: one array ``[n_b]`` a benchmark.
        clusters: one array ``[n_b]`` a benchmark; equal values in two benchmarks are the same image.
        weights: one weight a benchmark; the sample counts ``n_b`` when not given.
        num_resamples: resamples ``R``.
        seed: seed of the resampling.
        bounds: least and greatest score that is possible.

    Raises:
        DataError: as `bootstrap_mean`.
    """
    rows = [np.asarray(values, dtype=np.float64)[np.newaxis] for values in scores]
    values, draws, num_images = _resample(rows, clusters, weights, num_resamples, seed)
    if np.ptp(np.concatenate(rows, axis=1)) == 0.0:
        return _without_spread(float(values[0]), num_images, bounds)
    return _interval(float(values[0]), draws[:, 0], num_images)


def weighted_difference(
    scores_a: Sequence[ArrayLike],
    scores_b: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Return the weighted average over benchmarks of ``a - b`` with its interval, and its p-value.

    Arguments as `weighted_average`; the examples of ``a`` and ``b`` are the same, in the same order.

    Raises:
        DataError: as `bootstrap_mean`, or when a pair differs in length.
    """
    pairs = []
    for a, b in zip(scores_a, scores_b, strict=True):
        first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        if first.shape != second.shape:
            raise DataError(f"paired scores differ in length: {first.shape[0]} and {second.shape[0]}")
        pairs.append(np.stack([first, second]))
    interval = pairwise_differences(pairs, clusters, weights, num_resamples, seed)[0, 1]
    return interval, interval.p_value()


def pairwise_differences(
    scores: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[tuple[int, int], Interval]:
    """Return the weighted average of ``a - b`` for all pairs of arms, from one set of resamples.

    Args:
        scores: one array ``[k, n_b]`` a benchmark, the scores of ``k`` arms on the same examples.
        clusters: one array ``[n_b]`` a benchmark; equal values in two benchmarks are the same image.
        weights: one weight a benchmark; the sample counts ``n_b`` when not given.
        num_resamples: resamples ``R``.
        seed: seed of the resampling.

    Returns:
        ``(i, j)`` to the interval of arm ``i`` minus arm ``j``, for all ``i < j``.

    Raises:
        DataError: as `bootstrap_mean`.
    """
    rows = [np.asarray(values, dtype=np.float64) for values in scores]
    values, draws, num_images = _resample(rows, clusters, weights, num_resamples, seed)
    found = {}
    for i, j in combinations(range(len(values)), 2):
        value = float(values[i] - values[j])
        if np.ptp(np.concatenate([row[i] - row[j] for row in rows])) == 0.0:
            found[i, j] = _without_spread(value, num_images, (-1.0, 1.0))
        else:
            found[i, j] = _interval(value, draws[:, i] - draws[:, j], num_images)
    return found


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> tuple[int, int, float]:
    """Return (only a right, only b right, exact two-sided p) of McNemar's test.

    ``p`` is the binomial test of ``k`` heads in ``k + l`` fair throws (McNemar 1947). It takes every example
    as independent; where images carry several questions, trust `paired_difference`.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values, in the order given; reject where the adjusted value is below alpha.

    The ``i``-th smallest of ``m`` is multiplied by ``m - i`` (``i`` from 0), made non-decreasing, and cut
    at 1 (Holm 1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def _resample(
    scores: Sequence[Floats],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None,
    num_resamples: int,
    seed: int,
) -> tuple[Floats, Floats, int]:
    """Return the weighted averages ``[k]`` of ``k`` arms, their resamples ``[R, k]``, and the image count."""
    groups = [np.asarray(images).astype(np.str_) for images in clusters]
    _check(scores, groups)
    shares = np.array([len(images) for images in groups] if weights is None else weights, dtype=np.float64)
    shares /= shares.sum()
    images, codes = np.unique(np.concatenate(groups), return_inverse=True)
    parts = np.split(codes, np.cumsum([len(group) for group in groups])[:-1])
    values = np.sum([share * rows.mean(axis=1) for share, rows in zip(shares, scores, strict=True)], axis=0)
    totals = []  # of each benchmark: the m images it uses, their sums of scores [m, k] and counts [m, 1]
    for rows, part in zip(scores, parts, strict=True):
        used, inverse, counts = np.unique(part, return_inverse=True, return_counts=True)
        sums = np.stack([np.bincount(inverse, row, len(used)) for row in rows], axis=1)
        totals.append((used, sums, counts[:, np.newaxis].astype(np.float64)))
    draws = []
    for block in _image_weights(len(images), num_resamples, seed):  # [r, images]
        means = [(block[:, used] @ sums) / (block[:, used] @ counts) for used, sums, counts in totals]
        draws.append(np.tensordot(shares, means, axes=1))  # [r, k]
    return values, np.concatenate(draws), len(images)


def _check(scores: Sequence[Floats], clusters: Sequence[NDArray[np.str_]]) -> None:
    if not scores:
        raise DataError("no scores to average")
    for rows, images in zip(scores, clusters, strict=True):
        if rows.ndim != 2 or images.ndim != 1 or rows.shape[1] != len(images):
            raise DataError(f"scores {rows.shape[1:]} and clusters {images.shape} must be lists of one length")
        if len(images) == 0:
            raise DataError("no scores to average")
        if not np.isfinite(rows).all():
            raise DataError(f"score number {int(np.argmin(np.isfinite(rows).all(axis=0)))} is not a finite number")


def _interval(value: float, draws: Floats, num_images: int) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), float(draws.std(ddof=1)), num_images)


def _image_weights(num_images: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks ``[r, num_images]`` of Exp(1) weights, ``num_resamples`` rows in all."""
    generator = np.random.default_rng(seed)
    block = max(1, _CHUNK // num_images)
    for start in range(0, num_resamples, block):
        yield generator.standard_exponential((min(block, num_resamples - start), num_images))


def _without_spread(value: float, num_images: int, bounds: tuple[float, float]) -> Interval:
    """Return the interval when all scores are equal and resampling sees no spread.

    With probability 97.5% at most a share ``q = 1 - 0.025**(1/m)`` of all images behaves otherwise (Clopper
    and Pearson at 0 of ``m``); that share may sit anywhere between the bounds.
    """
    unseen = 1.0 - ((1 - LEVEL) / 2) ** (1.0 / num_images)
    low = value + unseen * (bounds[0] - value)
    high = value + unseen * (bounds[1] - value)
    return Interval(value, low, high, 0.0, num_images)
