"""How sure a score or a difference is: intervals, tests of pairs, and tests that survive many comparisons.

Scores are fractions here; they become percent where they are written. Wherever scores are asked for, one row stands
for one seed, and ``[S, n]`` rows for ``S`` seeds on the same examples in the same order. What is resampled, and
flipped, is the image (`eyeswap.statistics.resampling`). How lucky training runs are shows in several seeds, or is told
(`eyeswap.statistics.crossed`); else intervals and p-values are about these training runs alone. ``docs/statistics.md``
has every formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eyeswap.errors import DataError
from eyeswap.statistics.crossed import Pair, SeedVariance, arm_variances, pair_variances
from eyeswap.statistics.resampling import LEVEL, NUM_RESAMPLES, Interval, Sample, make_interval
from eyeswap.statistics.tails import Floats

__all__ = [
    "LEVEL",
    "NUM_FLIPS",
    "NUM_RESAMPLES",
    "Interval",
    "Pair",
    "Sample",
    "SeedVariance",
    "bootstrap_mean",
    "holm",
    "judged_differences",
    "mcnemar",
    "paired_difference",
    "pairwise_differences",
    "sample_differences",
    "sample_intervals",
    "sign_flip",
    "sign_flips",
    "weighted_average",
    "weighted_difference",
]  # fmt: skip

NUM_FLIPS = 20_000
_MOST_IMAGES_TO_ENUMERATE = 13
_FLIPS_AT_ONCE = 4_000_000
_TIE = 1e-9  # of the largest possible sum; rounding must not decide whether two sums are equal


def bootstrap_mean(
    scores: ArrayLike, clusters: ArrayLike, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of ``scores`` with an interval that resamples whole clusters.

    Args:
        scores: ``[n]`` or ``[S, n]``, each in 0..1.
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
        scores_a: ``[n]`` or ``[S, n]`` scores of the first arm, each in 0..1.
        scores_b: the scores of the second arm on the same examples, and seeds, in the same order.
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
        scores: one array ``[n_b]`` or ``[S, n_b]`` a benchmark.
        clusters: one array ``[n_b]`` a benchmark; equal values in two benchmarks are the same image.
        weights: one weight a benchmark; the sample counts ``n_b`` when not given.
        num_resamples: resamples ``R``.
        seed: seed of the resampling.
        bounds: least and greatest score that is possible.

    Raises:
        DataError: as `bootstrap_mean`.
    """
    sample = Sample([np.asarray(values)[np.newaxis] for values in scores], clusters, weights)
    return sample_intervals(sample, num_resamples, seed, bounds)[0]


def weighted_difference(
    scores_a: Sequence[ArrayLike],
    scores_b: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Return the weighted average over benchmarks of ``a - b`` with its interval, and its p-value.

    Arguments as `weighted_average`; the examples of ``a`` and ``b`` are the same, in the same order. The p-value is
    that of the interval; `sign_flip` has one that assumes less.

    Raises:
        DataError: as `bootstrap_mean`, or when a pair differs in length.
    """
    interval = pairwise_differences(_pairs(scores_a, scores_b), clusters, weights, num_resamples, seed)[0, 1]
    return interval, interval.p_value()


def pairwise_differences(
    scores: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[Pair, Interval]:
    """Return the weighted average of ``a - b`` for all pairs of arms, from one set of resamples.

    Args:
        scores: one array ``[k, n_b]`` or ``[k, S, n_b]`` a benchmark, the scores of ``k`` arms on the same examples.
        clusters: one array ``[n_b]`` a benchmark; equal values in two benchmarks are the same image.
        weights: one weight a benchmark; the sample counts ``n_b`` when not given.
        num_resamples: resamples ``R``.
        seed: seed of the resampling.

    Returns:
        ``(i, j)`` to the interval of arm ``i`` minus arm ``j``, for all ``i < j``.

    Raises:
        DataError: as `bootstrap_mean`.
    """
    return sample_differences(Sample(scores, clusters, weights), num_resamples, seed)


def sample_intervals(
    sample: Sample,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    seeds: SeedVariance | None = None,
) -> list[Interval]:
    """Return the interval of each arm of a sample, from one set of resamples.

    Args:
        sample: the scores of the arms, which are taken for the arms of one study.
        num_resamples: resamples ``R``.
        seed: seed of the resampling.
        bounds: least and greatest score that is possible.
        seeds: the variance of training runs, if known from elsewhere than these arms.
    """
    draws, values = sample.draws(num_resamples, seed).mean(axis=2), sample.values.mean(axis=1)
    variances = arm_variances(sample.values, sample.residuals(), seeds)
    return [
        make_interval(float(value), draws[:, arm], variances, arm, sample, bounds) for arm, value in enumerate(values)
    ]


def sample_differences(
    sample: Sample,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    pairs: Sequence[Pair] | None = None,
    seeds: SeedVariance | None = None,
) -> dict[Pair, Interval]:
    """Return the interval of arm ``i`` minus arm ``j`` for pairs, by default all ``i < j``, from one resampling."""
    chosen = _chosen(sample, pairs)
    draws, values = sample.draws(num_resamples, seed).mean(axis=2), sample.values.mean(axis=1)
    variances = pair_variances(sample.values, sample.residuals(), chosen, seeds)
    return {
        (i, j): make_interval(
            float(values[i] - values[j]), draws[:, i] - draws[:, j], variances, place, sample, (-1.0, 1.0)
        )
        for place, (i, j) in enumerate(chosen)
    }


def judged_differences(
    sample: Sample,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    pairs: Sequence[Pair] | None = None,
    seeds: SeedVariance | None = None,
) -> dict[Pair, tuple[Interval, float]]:
    """Return interval and p-value of arm ``i`` minus arm ``j``: what tells two arms apart.

    With one seed and nothing known of others the p-value is that of the sign-flip test, which holds its level for
    these training runs whatever the scores look like; where no pattern that was drawn comes as far, the tail beyond is
    that of Student's t. Else it is that of the errors of images and training runs together.
    """
    intervals = sample_differences(sample, num_resamples, seed, pairs, seeds)
    if sample.values.shape[1] > 1 or seeds is not None:
        return {pair: (interval, interval.p_value()) for pair, interval in intervals.items()}
    flips = sign_flips(sample, NUM_FLIPS, seed, pairs)
    never = 1.5 / (NUM_FLIPS + 1) if sample.num_images > _MOST_IMAGES_TO_ENUMERATE else 0.0
    return {
        pair: (interval, min(flips[pair], interval.p_value()) if flips[pair] < never else flips[pair])
        for pair, interval in intervals.items()
    }


def sign_flip(
    scores_a: Sequence[ArrayLike],
    scores_b: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    num_flips: int = NUM_FLIPS,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of the sign-flip test by image; arguments as `weighted_difference`.

    Raises:
        DataError: as `weighted_difference`.
    """
    return sign_flips(Sample(_pairs(scores_a, scores_b), clusters, weights), num_flips, seed)[0, 1]


def sign_flips(
    sample: Sample, num_flips: int = NUM_FLIPS, seed: int = 0, pairs: Sequence[Pair] | None = None
) -> dict[Pair, float]:
    """Return the two-sided p-value of the sign-flip test by image for some pairs of arms, by default all ``i < j``.

    If two arms are equally good on every image, each image may as well have favoured the other one. The p-value is
    the share of sign patterns over images whose average difference is at least as far from zero as the one seen:
    all patterns for up to 13 images, else ``num_flips`` random ones and the one seen, so that it is never below
    ``1 / (num_flips + 1)``. Seeds are averaged first: the test covers the choice of images alone.
    """
    added = sample.by_image().mean(axis=1)  # [k, m]
    chosen = _chosen(sample, pairs)
    first, second = np.array(chosen, dtype=np.intp).reshape(-1, 2).T
    seen = np.abs(added[first].sum(axis=1) - added[second].sum(axis=1))
    least = seen - _TIE * np.abs(added[first] - added[second]).sum(axis=1)
    as_far, total = np.zeros(len(chosen)), 0
    for signs in _sign_patterns(sample.num_images, num_flips, seed, len(chosen)):  # [r, m]
        sums = signs @ added.T  # [r, k]
        as_far += (np.abs(sums[:, first] - sums[:, second]) >= least).sum(axis=0)
        total += len(signs)
    if sample.num_images > _MOST_IMAGES_TO_ENUMERATE:
        as_far, total = as_far + 1, total + 1
    return {pair: float(share) for pair, share in zip(chosen, as_far / total, strict=True)}


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> tuple[int, int, float]:
    """Return (only a right, only b right, exact two-sided p) of McNemar's test.

    ``p`` is the binomial test of ``k`` heads in ``k + l`` fair throws (McNemar 1947). It takes every example
    as independent; where images carry several questions it rejects too often, and `sign_flip`, which is this
    test with the image in place of the example, is the one to trust.
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


def _pairs(scores_a: Sequence[ArrayLike], scores_b: Sequence[ArrayLike]) -> list[Floats]:
    pairs = []
    for a, b in zip(scores_a, scores_b, strict=True):
        first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        if first.shape != second.shape:
            raise DataError(f"paired scores differ in length: {first.shape[-1]} and {second.shape[-1]}")
        pairs.append(np.stack([first, second]))
    return pairs


def _chosen(sample: Sample, pairs: Sequence[Pair] | None) -> list[Pair]:
    return list(combinations(range(len(sample.values)), 2)) if pairs is None else list(pairs)


def _sign_patterns(num_images: int, num_flips: int, seed: int, num_pairs: int) -> Iterator[Floats]:
    """Yield blocks ``[r, m]`` of -1 and +1: all patterns if the images are few, else random ones."""
    if num_images <= _MOST_IMAGES_TO_ENUMERATE:
        yield np.array(list(product((-1.0, 1.0), repeat=num_images)))
        return
    generator = np.random.default_rng(seed)
    block = max(1, _FLIPS_AT_ONCE // max(num_images, num_pairs))
    for start in range(0, num_flips, block):
        bits = generator.integers(0, 2, (min(block, num_flips - start), num_images), dtype=np.int8)
        yield np.asarray(2 * bits - 1, dtype=np.float64)
