"""How far an error reaches that has two causes: which images were asked about, and how lucky training runs were.

An estimate's error is the sum of two independent parts, each with a variance of its own that is estimated from data:
that of images with many degrees of freedom, that of training runs with few. Their studentized sum follows no Student's
t; this is the problem of Behrens (1929) and Fisher (1935, Annals of Eugenics 6:391). Given the runs' estimate ``v``
with ``f`` degrees of freedom, their true variance is ``f v / x`` for a chi-squared ``x``, and the tail of the error is
the mean of the tails that it has for each ``x``. All functions but `reach` take arrays and broadcast them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

_NODES = 40
_AS_GOOD_AS_KNOWN = 1e9  # degrees of freedom
_OUTSIDE = 1e-12  # probability beyond either end of the quadrature


def tail(
    distance: ArrayLike, images: ArrayLike, runs: ArrayLike, image_freedom: ArrayLike, run_freedom: float
) -> Floats:
    """Return the two-sided tail ``P(|e| >= distance)`` of ``e = t_fi sqrt(images) + t_fr sqrt(runs)``.

    It is Student's where one of the parts is zero. A test that takes it for its p-value rejects true nulls less often
    than it may, and in no known case more often (Robinson 1976, The Annals of Statistics 4:963), also far out.

    Args:
        distance: of the estimate from the null, at least 0.
        images: variance that comes from the choice of images.
        runs: variance that comes from the luck of training runs; one of the two is above 0.
        image_freedom: degrees of freedom of ``images``.
        run_freedom: degrees of freedom of ``runs``; infinite where it is known and not estimated.
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
    """Return the tail whose intervals hold the truth as often as they say; arguments as `tail`.

    With ``w`` the images' share of the variance it is ``w`` times the tail with ``f + 2`` degrees of freedom around the
    same sum of squares plus ``1 - w`` times the one with ``f``: the posterior under the prior that matches coverage to
    second order (Ghosh and Kim 2001, The Canadian Journal of Statistics 29:5). Where few runs scatter much it is a
    little too short far out, so intervals are made of it and tests are not.
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
        images: as in `tail`, and so the next three.
        runs: see `tail`.
        image_freedom: see `tail`.
        run_freedom: see `tail`.
        matched: of `matched_tail` instead of `tail`.
    """
    if np.isinf(run_freedom) or runs == 0.0:
        freedom = image_freedom * ((images + runs) / images) ** 2 if images else np.inf
        return float(-special.stdtrit(freedom, alpha / 2) * np.sqrt(images + runs))
    probability = matched_tail if matched else tail

    def excess(log_distance: float) -> float:
        found = probability(np.exp(log_distance), images, runs, image_freedom, run_freedom)
        return float(np.log(found) - np.log(alpha))

    furthest = (
        special.stdtrit(image_freedom, alpha / 2) ** 2 * images + special.stdtrit(run_freedom, alpha / 2) ** 2 * runs
    )
    nearest = special.ndtri(alpha / 2) ** 2 * images
    high = 0.5 * np.log(furthest) + 0.5
    low = 0.5 * np.log(max(nearest, furthest * 1e-6)) - 3.0
    return float(np.exp(optimize.brentq(excess, low, high, xtol=1e-9)))


def _student(distance: Floats, estimated: Floats, known: Floats, freedom: Floats) -> Floats:
    """Return the two-sided tail for an estimated and a known variance together, after Satterthwaite (1946)."""
    variance = estimated + known
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        whole = np.minimum(freedom * (variance / estimated) ** 2, _AS_GOOD_AS_KNOWN)
    return np.asarray(2.0 * special.stdtr(whole, -distance / np.sqrt(variance)))


@lru_cache(maxsize=64)
def _chi_squared(freedom: float) -> tuple[Floats, Floats]:
    """Return quadrature nodes and weights of a chi-squared: the trapezoidal rule in its logarithm, all but exact."""
    spread = stats.chi2(freedom)
    logs = np.linspace(np.log(spread.ppf(_OUTSIDE)), np.log(spread.isf(_OUTSIDE)), _NODES)
    weights = spread.pdf(np.exp(logs)) * np.exp(logs)
    return np.exp(logs), weights / weights.sum()
