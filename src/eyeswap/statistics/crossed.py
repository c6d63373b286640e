"""How an average's error divides between images and training runs: arms, images and seeds are crossed.

The score of arm ``a`` on image ``i`` in run ``s`` is modelled as

    arm_a + image_i + (arm x image)_ai + run_as + luck_asi

where runs are nested in arms: two arms that share a seed share the order of the data, not their luck. The mean of an
arm over ``S`` runs and all images therefore errs by its images (``image`` and ``arm x image``, which every run meets
again) and by its runs (``run``, and their ``luck`` on single images). The variance over seeds of the runs' means holds
both parts of the second kind, so nothing has to be subtracted from it; the part of the variance over images that is
luck is taken off there instead. ``docs/statistics.md`` has the formulas.

Leading axes ``[...]`` may stand for many studies at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyeswap.statistics.tails import Floats

Pair = tuple[int, int]


@dataclass(frozen=True)
class SeedVariance:
    """How much the average of a training run varies from seed to seed.

    Attributes:
        variance: of one run's average, over seeds.
        freedom: its degrees of freedom; infinite where it is taken as known.
    """

    variance: float
    freedom: float = np.inf


@dataclass(frozen=True)
class Variances:
    """The two variances of the errors of some estimates, each ``[..., n]``.

    Attributes:
        images: from the choice of images.
        runs: from the luck of training runs; 0 where nothing is known of it.
        run_freedom: degrees of freedom of ``runs``.
        caution: factor by which tests enlarge ``runs``.
    """

    images: Floats
    runs: Floats
    run_freedom: float = np.inf
    caution: float = 1.0


def arm_variances(values: Floats, residuals: Floats, seeds: SeedVariance | None = None) -> Variances:
    """Return the variances of the arms' averages, ``[..., k]``.

    Args:
        values: ``[..., k, S]`` averages of each arm and seed.
        residuals: ``[..., k, S, m]`` what each image adds to them beyond an average image.
        seeds: the variance of runs, if known from elsewhere than these arms; with one seed nothing is known of it else.
    """
    by_arm, luck, own = _parts(values, residuals)
    total = _bessel(residuals) * np.einsum("...m,...m->...", by_arm, by_arm)
    return _variances(total, luck, own, own.mean(axis=-1, keepdims=True), values, 1, seeds)


def pair_variances(
    values: Floats, residuals: Floats, pairs: Sequence[Pair], seeds: SeedVariance | None = None
) -> Variances:
    """Return the variances of the differences of pairs of arms, ``[..., pairs]``; arguments as `arm_variances`."""
    by_arm, luck, own = _parts(values, residuals)
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    apart = by_arm[..., first, :] - by_arm[..., second, :]
    total = _bessel(residuals) * np.einsum("...m,...m->...", apart, apart)
    of_pair = (own[..., first] + own[..., second]) / 2
    return _variances(
        total, luck[..., first] + luck[..., second], of_pair, own.mean(axis=-1, keepdims=True), values, 2, seeds
    )


def pooled_variance(values: Sequence[Floats]) -> SeedVariance | None:
    """Return the variance of runs' averages over seeds, pooled over arms; None if no arm has two seeds.

    Args:
        values: one array ``[S]`` an arm; arms may have unequal numbers of seeds.
    """
    freedom = sum(len(one) - 1 for one in values)
    if not freedom:
        return None
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in values)
    return SeedVariance(squares / freedom, float(freedom))


def _variances(
    total: Floats, luck: Floats, own: Floats, pooled: Floats, values: Floats, terms: int, seeds: SeedVariance | None
) -> Variances:
    """Divide the variance over images, and weigh an estimate's own seeds against those of all arms."""
    *_, num_arms, num_seeds = values.shape
    if num_seeds == 1:
        known = seeds or SeedVariance(0.0)
        return Variances(total, np.full(total.shape, terms * known.variance), known.freedom)
    freedom = float(num_arms * (num_seeds - 1))
    if seeds is not None:
        pooled, freedom = np.asarray(seeds.variance), seeds.freedom
    # What scatters more than the others is not given the others' variance.
    runs = terms * np.maximum(own, pooled) / num_seeds
    return Variances(np.maximum(total - luck / num_seeds, 0.0), runs, freedom, _caution(num_arms, num_seeds))


def _caution(num_arms: int, num_seeds: int) -> float:
    """Return by how much tests enlarge the variance of runs, because arms need not scatter alike.

    Set by simulation so that a whole study raises false alarms in 5% at most also where the seeds of one arm scatter
    three times as much as the others' and happen not to show it (``benchmarks/validity/seeds.py``). It vanishes with
    more seeds. Two arms alone say least about which of them scatters.
    """
    return 1.0 + 1.0 / (num_seeds if num_arms == 2 else max(num_seeds, 3))


def _parts(values: Floats, residuals: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the residuals averaged over seeds, and two variances of the runs' averages over seeds.

    Returns:
        ``[..., k, m]``; ``[..., k]``, what of the variance is luck on single images; ``[..., k]``, all of it.
    """
    num_seeds = values.shape[-1]
    by_arm = residuals.mean(axis=-2)
    if num_seeds == 1:
        nothing = np.zeros(values.shape[:-1])
        return by_arm, nothing, nothing
    apart = residuals - by_arm[..., np.newaxis, :]
    luck = _bessel(residuals) * np.einsum("...sm,...sm->...", apart, apart) / (num_seeds - 1)
    return by_arm, luck, values.var(axis=-1, ddof=1)


def _bessel(residuals: Floats) -> float:
    num_images = residuals.shape[-1]
    return num_images / (num_images - 1) if num_images > 1 else 0.0
