"""Variance components of averages: how much of an average's error comes from images and how much from training runs.

The score of arm ``a`` on image ``i`` in run ``s`` is modelled as

    arm_a + image_i + (arm x image)_ai + run_as + residual_asi

Images are crossed with arms and runs; runs are nested in arms, because two arms that share a seed share the order of
the data but not its random effect. The mean of an arm over ``S`` runs and all images therefore has an error from its
images (``image`` and ``arm x image``, the same in every run) and an error from its runs (``run``, and their
``residual`` on single images). The variance over seeds of the runs' means contains both terms of the second kind, so
nothing is subtracted from it; the residual part is subtracted from the variance over images instead.
``docs/statistics.md`` has the formulas.

Leading axes ``[...]`` may stand for many studies, computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyeswap.statistics.tails import Floats

Pair = tuple[int, int]


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a training run's average from seed to seed.

    Attributes:
        variance: variance over seeds of a single run's average.
        freedom: degrees of freedom of its estimate; infinite where it is taken as known.
    """

    variance: float
    freedom: float = np.inf


@dataclass(frozen=True)
class Variances:
    """The two error variances of ``n`` estimates, each ``[..., n]``.

    Attributes:
        images: variance due to the choice of images.
        runs: variance due to training runs; 0 where it is unknown.
        run_freedom: degrees of freedom of ``runs``.
        caution: factor by which tests inflate ``runs``.
    """

    images: Floats
    runs: Floats
    run_freedom: float = np.inf
    caution: float = 1.0


def arm_variances(values: Floats, residuals: Floats, seeds: SeedVariance | None = None) -> Variances:
    """Return the variances of the arms' averages, ``[..., k]``.

    Args:
        values: ``[..., k, S]`` average of each arm and seed.
        residuals: ``[..., k, S, m]`` contribution of each image to them beyond that of an average image.
        seeds: the variance between runs, if it is known from a source other than these arms; with a single seed it is
            otherwise unknown.
    """
    by_arm, residual, between_runs = _components(values, residuals)
    total = _bessel(residuals) * np.einsum("...m,...m->...", by_arm, by_arm)
    return _variances(total, residual, between_runs, between_runs.mean(axis=-1, keepdims=True), values, 1, seeds)


def pair_variances(
    values: Floats, residuals: Floats, pairs: Sequence[Pair], seeds: SeedVariance | None = None
) -> Variances:
    """Return the variances of the differences between pairs of arms, ``[..., pairs]``; arguments as `arm_variances`."""
    by_arm, residual, between_runs = _components(values, residuals)
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    differences = by_arm[..., first, :] - by_arm[..., second, :]
    total = _bessel(residuals) * np.einsum("...m,...m->...", differences, differences)
    residual = residual[..., first] + residual[..., second]
    of_pair = (between_runs[..., first] + between_runs[..., second]) / 2
    return _variances(total, residual, of_pair, between_runs.mean(axis=-1, keepdims=True), values, 2, seeds)


def pooled_variance(values: Sequence[Floats]) -> SeedVariance | None:
    """Return the variance of runs' averages over seeds, pooled over arms; None if no arm has two seeds.

    Args:
        values: one array ``[S]`` per arm; arms may have different numbers of seeds.
    """
    freedom = sum(len(averages) - 1 for averages in values)
    if not freedom:
        return None
    squares = sum(float(((averages - averages.mean()) ** 2).sum()) for averages in values)
    return SeedVariance(squares / freedom, float(freedom))


def _variances(
    total: Floats,
    residual: Floats,
    between_runs: Floats,
    pooled: Floats,
    values: Floats,
    num_terms: int,
    seeds: SeedVariance | None,
) -> Variances:
    """Split the variance of each estimate between images and runs.

    Args:
        total: variance over images, residuals included.
        residual: the part of a single run's variance that is residual on single images.
        between_runs: variance of a single run's average over seeds, from the estimate's own arms.
        pooled: the same from all arms.
        values: as in `arm_variances`.
        num_terms: arms in the estimate: 1 for an average, 2 for a difference.
        seeds: as in `arm_variances`.
    """
    *_, num_arms, num_seeds = values.shape
    if num_seeds == 1:
        known = seeds or SeedVariance(0.0)
        return Variances(total, np.full(total.shape, num_terms * known.variance), known.freedom)
    freedom = float(num_arms * (num_seeds - 1))
    if seeds is not None:
        pooled, freedom = np.asarray(seeds.variance), seeds.freedom
    # An arm whose seeds scatter more than the others' keeps its own, larger variance.
    runs = num_terms * np.maximum(between_runs, pooled) / num_seeds
    return Variances(np.maximum(total - residual / num_seeds, 0.0), runs, freedom, _caution(num_arms, num_seeds))


def _caution(num_arms: int, num_seeds: int) -> float:
    """Return the factor by which tests inflate the variance of runs, because arms need not vary equally.

    Set by simulation so that the family-wise error rate of a study is at most 5% even where the seeds of one arm vary
    three times as much as the others' and happen not to show it (``benchmarks/validity/seeds.py``). It approaches 1
    with more seeds. Two arms alone say least about which of them varies more.
    """
    return 1.0 + 1.0 / (num_seeds if num_arms == 2 else max(num_seeds, 3))


def _components(values: Floats, residuals: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the residuals averaged over seeds ``[..., k, m]``, and two variances of the runs' averages over seeds.

    The second result ``[..., k]`` is the part of the variance that is residual on single images, the third all of it.
    """
    num_seeds = values.shape[-1]
    by_arm = residuals.mean(axis=-2)
    if num_seeds == 1:
        zero = np.zeros(values.shape[:-1])
        return by_arm, zero, zero
    deviations = residuals - by_arm[..., np.newaxis, :]
    residual = _bessel(residuals) * np.einsum("...sm,...sm->...", deviations, deviations) / (num_seeds - 1)
    return by_arm, residual, values.var(axis=-1, ddof=1)


def _bessel(residuals: Floats) -> float:
    num_images = residuals.shape[-1]
    return num_images / (num_images - 1) if num_images > 1 else 0.0
