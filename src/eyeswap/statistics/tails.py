"""Tail probabilities of an error with two sources: the choice of images and the variation between training runs.

An estimate's error is the sum of two independent terms whose variances are both estimated: that of images with many
degrees of freedom, that of training runs with few. The studentized sum does not follow Student's t; this is the problem
of Behrens (1929) and Fisher (1935, Annals of Eugenics 6:391). Given the estimate ``v`` with ``f`` degrees of freedom,
the true variance between runs is ``f v / x`` for a chi-squared ``x``, and the tail of the error is the mean over ``x``
of its tails given ``x``. All functions but `reach` take arrays and broadcast them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

_NODES = 40
_EFFECTIVELY_KNOWN = 1e9  # degrees of freedom
_OUTSIDE = 1e-12  # probability beyond either end of the quadrature


def tail(
    distance: ArrayLike, images: ArrayLike, runs: ArrayLike, image_freedom: ArrayLike, run_freedom: float
) -> Floats:
    """Return the two-sided tail ``P(|e| >= distance)`` of ``e = t_fi sqrt(images) + t_fr sqrt(runs)``.

    It is that of Student's t where one of the variances is zero. A test with this p-value is conservative: in no known
    case does it reject true nulls more often than its level (Robinson 1976, The Annals of Statistics 4:963), at small
    levels too.

    Args:
        distance: distance of the estimate from the null, at least 0.
        images: variance due to the choice of images.
        runs: variance due to training runs; at least one of the two is above 0.
        image_freedom: degrees of freedom of ``images``.
        run_freedom: degrees of freedom of ``runs``; infinite where the variance is known rather than estimated.
    """
    distance, images, runs, image_freedom = (
        np.asarray(value, np.float64) for value in (distance, images, runs, image_freedom)
    )
    if np.isinf(run_freedom) or not np.any(runs):
        return _student(distance, images, runs, image_freedom)
    quantiles, weights = _chi_squared(run_freedom)
    parts = (value[..., np.newaxis] for value in (distance, images, runs, image_freedom))
    distance, images, runs, image_freedom = parts
    return np.asarray(_student(distance, images, run_freedom * runs / quantiles, image_freedom) @ weights)


def matched_tail(
    distance: ArrayLike, images: ArrayLike, runs: ArrayLike, image_freedom: ArrayLike, run_freedom: float
) -> Floats:
    """Return the tail from which intervals with the nominal coverage follow; arguments as `tail`.

    With ``w`` the images' share of the variance, it is ``w`` times the tail with ``f + 2`` degrees of freedom for the
    same sum of squares plus ``1 - w`` times the one with ``f``: the posterior under the prior that matches coverage to
    second order (Ghosh and Kim 2001, The Canadian Journal of Statistics 29:5). Where few runs vary much it is slightly
    too light far out, so it is used for intervals but not for tests.
    """
    images, runs = np.asarray(images, np.float64), np.asarray(runs, np.float64)
    few = tail(distance, images, runs, image_freedom, run_freedom)
    if np.isinf(run_freedom) or not np.any(runs):
        return few
    share = images / (images + runs)
    more = tail(distance, images, runs * run_freedom / (run_freedom + 2), image_freedom, run_freedom + 2)
    return np.asarray(share * more + (1 - share) * few)


def reach(
    alpha: float, images: float, runs: float, image_freedom: float, run_freedom: float, matched: bool = False
) -> float:
    """Return the distance whose tail is ``alpha``.

    Args:
        alpha: two-sided tail probability, above 1e-12.
        images: as in `tail`, like the next three.
        runs: see `tail`.
        image_freedom: see `tail`.
        run_freedom: see `tail`.
        matched: invert `matched_tail` instead of `tail`.
    """
    if np.isinf(run_freedom) or runs == 0.0:
        freedom = image_freedom * ((images + runs) / images) ** 2 if images else np.inf
        return float(-special.stdtrit(freedom, alpha / 2) * np.sqrt(images + runs))
    probability = matched_tail if matched else tail

    def excess(log_distance: float) -> float:
        p = probability(np.exp(log_distance), images, runs, image_freedom, run_freedom)
        return float(np.log(p) - np.log(alpha))

    # Squared distances that bracket the root: both variances at their own t quantiles; images alone, taken as known.
    largest = (
        special.stdtrit(image_freedom, alpha / 2) ** 2 * images + special.stdtrit(run_freedom, alpha / 2) ** 2 * runs
    )
    smallest = special.ndtri(alpha / 2) ** 2 * images
    high = 0.5 * np.log(largest) + 0.5
    low = 0.5 * np.log(max(smallest, largest * 1e-6)) - 3.0
    return float(np.exp(optimize.brentq(excess, low, high, xtol=1e-9)))


def _student(distance: Floats, estimated: Floats, known: Floats, freedom: Floats) -> Floats:
    """Return the two-sided tail for the sum of an estimated and a known variance, after Satterthwaite (1946)."""
    variance = estimated + known
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # the estimated variance may be zero
        freedom_of_sum = np.minimum(freedom * (variance / estimated) ** 2, _EFFECTIVELY_KNOWN)
    return np.asarray(2.0 * special.stdtr(freedom_of_sum, -distance / np.sqrt(variance)))


@lru_cache(maxsize=64)
def _chi_squared(freedom: float) -> tuple[Floats, Floats]:
    """Return quadrature nodes and weights of a chi-squared: the trapezoidal rule in its logarithm.

    The integrand is smooth and vanishes at both ends there, so that the rule converges exponentially in ``_NODES``.
    """
    distribution = stats.chi2(freedom)
    logs = np.linspace(np.log(distribution.ppf(_OUTSIDE)), np.log(distribution.isf(_OUTSIDE)), _NODES)
    weights = distribution.pdf(np.exp(logs)) * np.exp(logs)
    return np.exp(logs), weights / weights.sum()
