"""Intervals of scores, and the paired comparison of arms: intervals of differences, tests, and Holm's correction.

`compare_arms` is the one comparison of arms that have answered the same examples; the report, ``eyeswap compare`` and
the tests of equivalence use it. Scores are fractions here and become percent where they are written. A `Sample` has one
row per training seed. What is resampled, and sign-flipped, is the image (`eyeswap.statistics.resampling`). Variation
between training runs is estimated from several seeds or supplied by the caller (`eyeswap.statistics.crossed`);
otherwise intervals and p-values describe these training runs only. ``docs/statistics.md`` has every formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eyeswap.statistics.crossed import Pair, SeedVariance, arm_variances, pair_variances
from eyeswap.statistics.resampling import NUM_RESAMPLES, Interval, Sample, make_interval
from eyeswap.statistics.tails import Floats

NUM_FLIPS = 20_000
_MAX_IMAGES_TO_ENUMERATE = 13
_FLIPS_PER_BLOCK = 4_000_000
_TIE = 1e-9  # of the largest possible sum; rounding must not decide whether two sums are equal


class Difference(NamedTuple):
    """The paired difference of two arms.

    Attributes:
        interval: the first arm minus the second.
        p: two-sided p-value of "the two are equal".
    """

    interval: Interval
    p: float


@dataclass(frozen=True)
class McNemar:
    """McNemar's test.

    Attributes:
        only_first: number of examples that only the first arm answers correctly.
        only_second: number of examples that only the second arm answers correctly.
        p: exact two-sided p-value; it treats examples as independent.
    """

    only_first: int
    only_second: int
    p: float


def sample_intervals(
    sample: Sample,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    seeds: SeedVariance | None = None,
) -> list[Interval]:
    """Return the interval of each arm's average, all from one set of resamples.

    Args:
        sample: the scores of the arms; they count as the arms of one study, whose seed variance is pooled.
        num_resamples: number of resamples, ``R``.
        seed: seed of the resampling.
        bounds: smallest and largest possible score.
        seeds: the variance between training runs, if it is known from a source other than these arms.
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
    """Return the interval of arm ``i`` minus arm ``j`` for each pair, all from one set of resamples.

    Args:
        sample: the scores of the arms.
        num_resamples: number of resamples, ``R``.
        seed: seed of the resampling.
        pairs: the pairs ``(i, j)``; all with ``i < j`` by default.
        seeds: as for `sample_intervals`.
    """
    pairs = _all_pairs(sample) if pairs is None else pairs
    draws, values = sample.draws(num_resamples, seed).mean(axis=2), sample.values.mean(axis=1)
    variances = pair_variances(sample.values, sample.residuals(), pairs, seeds)
    return {
        (i, j): make_interval(
            float(values[i] - values[j]), draws[:, i] - draws[:, j], variances, place, sample, (-1.0, 1.0)
        )
        for place, (i, j) in enumerate(pairs)
    }


def compare_arms(
    sample: Sample,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    pairs: Sequence[Pair] | None = None,
    seeds: SeedVariance | None = None,
) -> dict[Pair, Difference]:
    """Compare arms in pairs on the same examples; arguments as `sample_differences`.

    With one seed and no known seed variance, the p-value is that of the sign-flip test, which holds its level for these
    training runs whatever the distribution of scores; where no random sign pattern reaches the observed difference, the
    tail of Student's t takes over. Otherwise the p-value is that of the interval, which covers images and training
    runs.
    """
    intervals = sample_differences(sample, num_resamples, seed, pairs, seeds)
    if sample.values.shape[1] > 1 or seeds is not None:
        return {pair: Difference(interval, interval.p_value()) for pair, interval in intervals.items()}
    flips = sign_flips(sample, NUM_FLIPS, seed, pairs)
    smallest = 1.5 / (NUM_FLIPS + 1) if sample.num_images > _MAX_IMAGES_TO_ENUMERATE else 0.0
    return {
        pair: Difference(interval, min(flips[pair], interval.p_value()) if flips[pair] < smallest else flips[pair])
        for pair, interval in intervals.items()
    }


def sign_flips(
    sample: Sample, num_flips: int = NUM_FLIPS, seed: int = 0, pairs: Sequence[Pair] | None = None
) -> dict[Pair, float]:
    """Return the two-sided p-value of the sign-flip test by image for each pair of arms, by default all ``i < j``.

    If two arms are equally good on every image, each image might as well have favoured the other arm. The p-value is
    the share of sign patterns over images whose average difference is at least as far from zero as the observed one:
    over all patterns for up to 13 images, otherwise over ``num_flips`` random patterns and the observed one, so that it
    is never below ``1 / (num_flips + 1)``. Scores are averaged over seeds first: the test covers the choice of images
    only.
    """
    by_image = sample.by_image().mean(axis=1)  # [k, m]
    pairs = _all_pairs(sample) if pairs is None else pairs
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    observed = np.abs(by_image[first].sum(axis=1) - by_image[second].sum(axis=1))
    threshold = observed - _TIE * np.abs(by_image[first] - by_image[second]).sum(axis=1)
    num_as_far, num_patterns = np.zeros(len(pairs)), 0
    for signs in _sign_patterns(sample.num_images, num_flips, seed, len(pairs)):  # [r, m]
        sums = signs @ by_image.T  # [r, k]: one product for all arms; pairs are differences of its columns
        num_as_far += (np.abs(sums[:, first] - sums[:, second]) >= threshold).sum(axis=0)
        num_patterns += len(signs)
    if sample.num_images > _MAX_IMAGES_TO_ENUMERATE:
        num_as_far, num_patterns = num_as_far + 1, num_patterns + 1
    return {pair: float(share) for pair, share in zip(pairs, num_as_far / num_patterns, strict=True)}


def mcnemar(scores_a: ArrayLike, scores_b: ArrayLike) -> McNemar | None:
    """Return McNemar's exact test (1947) of two arms' scores ``[n]``; None unless all of them are 0 or 1.

    It is the two-sided binomial test of ``k`` heads in ``k + l`` fair throws. It treats examples as independent, so it
    rejects too often where images carry several questions; `sign_flips` is the same test by image and the one to trust.
    """
    scores = np.stack([np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)])
    if not np.isin(scores, (0.0, 1.0)).all():
        return None
    only_a, only_b = int(np.sum(scores[0] > scores[1])), int(np.sum(scores[1] > scores[0]))
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values in the given order; reject where the adjusted value is below alpha.

    The ``i``-th smallest of ``m`` is multiplied by ``m - i`` (``i`` from 0), made non-decreasing, and capped at 1
    (Holm 1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def _all_pairs(sample: Sample) -> list[Pair]:
    return list(combinations(range(len(sample.values)), 2))


def _sign_patterns(num_images: int, num_flips: int, seed: int, num_pairs: int) -> Iterator[Floats]:
    """Yield blocks ``[r, m]`` of -1 and +1: all patterns for few images, otherwise ``num_flips`` random ones."""
    if num_images <= _MAX_IMAGES_TO_ENUMERATE:
        yield np.array(list(product((-1.0, 1.0), repeat=num_images)))
        return
    generator = np.random.default_rng(seed)
    block = max(1, _FLIPS_PER_BLOCK // max(num_images, num_pairs))  # bounds the memory of patterns and of sums
    for start in range(0, num_flips, block):
        bits = generator.integers(0, 2, (min(block, num_flips - start), num_images), dtype=np.int8)
        yield np.asarray(2 * bits - 1, dtype=np.float64)
