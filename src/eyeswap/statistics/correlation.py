"""Rank correlations over few arms: does one property of a backbone predict another?

Here the arms are the random sample: ``n`` is the number of arms, not of images, and four of them can show hardly
anything. Each result therefore carries ``n``, an interval as wide as so few arms make it, and the smallest p-value that
any data could have reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eyeswap.errors import DataError
from eyeswap.statistics.resampling import LEVEL
from eyeswap.statistics.tails import Floats

Method = Literal["spearman", "kendall"]

METHODS: tuple[Method, ...] = ("spearman", "kendall")
MAX_ARMS_TO_ENUMERATE = 8  # 8! = 40,320 orders
NUM_PERMUTATIONS = 20_000
_OFFSET: dict[Method, int] = {"spearman": 3, "kendall": 4}  # subtracted from n in the interval's formula
_ORDERS_PER_BLOCK = 1_000
_TIE = 1e-9


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over arms.

    Attributes:
        method: ``spearman`` (rho) or ``kendall`` (tau-b).
        n: number of arms.
        value: the correlation; None if there are fewer than three arms, or one variable is constant.
        low: lower end of the 95% interval; None where no interval exists.
        high: upper end.
        p: two-sided p-value of the permutation test.
        smallest_p: the smallest p-value that ``n`` arms without ties could have reached.
        why_not: why a number is None; empty if none is.
    """

    method: Method
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    smallest_p: float | None = None
    why_not: str = ""

    @property
    def decided(self) -> bool:
        """Whether the correlation differs from zero at the 5% level."""
        return self.p is not None and self.p < 1 - LEVEL


def correlate(x: Sequence[float], y: Sequence[float], method: Method = "spearman", seed: int = 0) -> Correlation:
    """Return the rank correlation of two variables over the same arms, with its interval and permutation test.

    Args:
        x: one value per arm, such as ImageNet accuracy.
        y: one value per arm, such as a VLM score.
        method: ``spearman`` or ``kendall``.
        seed: seed of the random permutations, where there are too many to enumerate.

    Raises:
        DataError: if lengths differ, or a number is not finite.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"correlation of arrays of shapes {first.shape} and {second.shape}: give one pair per arm")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("correlation: a value is not a finite number; leave that arm out")
    n = len(first)
    if n < 3:
        return Correlation(method, n, why_not=f"{n} arms; a rank correlation needs at least three")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(method, n, why_not="one of the two variables has the same value for all arms")
    left, right = _scores(first, method), _scores(second, method)
    value = float((left * right).sum() / math.sqrt((left**2).sum() * (right**2).sum()))
    value = min(1.0, max(-1.0, value))
    bounds = interval(value, n, method)
    low, high = bounds if bounds else (None, None)
    why_not = "" if bounds else f"{n} arms; this interval needs at least {_OFFSET[method] + 1}"
    p = _permutation_p(left, right, method, seed)
    smallest = 2 / math.factorial(n) if n <= MAX_ARMS_TO_ENUMERATE else 1 / (NUM_PERMUTATIONS + 1)
    return Correlation(method, n, value, low, high, p, smallest, why_not)


def interval(value: float, n: int, method: Method) -> tuple[float, float] | None:
    """Return the 95% interval of a rank correlation over ``n`` arms; None if they are too few for one.

    ``tanh(atanh(r) -+ z * s)`` with ``s**2 = (1 + r**2 / 2) / (n - 3)`` for Spearman (Bonett and Wright 2000,
    Psychometrika 65:23) and ``s**2 = 0.437 / (n - 4)`` for Kendall (Fieller, Hartley and Pearson 1957, Biometrika
    44:470). A perfect order is moved half a step towards zero, so that its interval is not a point; the end of the
    interval on its side is then 1 (or -1).
    """
    freedom = n - _OFFSET[method]
    if freedom < 1:
        return None
    half_step = 6 / (n**3 - n) if method == "spearman" else 2 / (n**2 - n)
    inside = math.copysign(min(abs(value), 1 - half_step), value)
    variance = (1 + inside**2 / 2) / freedom if method == "spearman" else 0.437 / freedom
    reach = float(stats.norm.isf((1 - LEVEL) / 2)) * math.sqrt(variance)
    low, high = math.tanh(math.atanh(inside) - reach), math.tanh(math.atanh(inside) + reach)
    perfect = abs(value) > 1 - half_step
    return (-1.0 if perfect and value < 0 else low), (1.0 if perfect and value > 0 else high)


def _scores(values: Floats, method: Method) -> Floats:
    """Return centred ranks ``[n]`` (Spearman) or the signs of all pairwise differences ``[n, n]`` (Kendall)."""
    if method == "spearman":
        ranks = stats.rankdata(values)
        return np.asarray(ranks - ranks.mean())
    return np.sign(values[:, np.newaxis] - values[np.newaxis])


def _permutation_p(left: Floats, right: Floats, method: Method, seed: int) -> float:
    """Return the share of permutations of the arms whose correlation is at least as far from zero as the observed."""
    threshold = abs(float((left * right).sum())) * (1 - _TIE)
    num_as_far, num_orders = 0, 0
    for orders in _orders(len(left), seed):  # [r, n]
        if method == "spearman":
            sums = right[orders] @ left
        else:
            sums = np.einsum("rij,ij->r", right[orders[:, :, np.newaxis], orders[:, np.newaxis, :]], left)
        num_as_far += int((np.abs(sums) >= threshold).sum())
        num_orders += len(orders)
    if len(left) > MAX_ARMS_TO_ENUMERATE:
        num_as_far, num_orders = num_as_far + 1, num_orders + 1
    return num_as_far / num_orders


def _orders(n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield blocks ``[r, n]`` of permutations: all of them if ``n`` is small, otherwise random ones."""
    if n <= MAX_ARMS_TO_ENUMERATE:
        yield np.array(list(permutations(range(n))))
        return
    generator = np.random.default_rng(seed)
    for _ in range(NUM_PERMUTATIONS // _ORDERS_PER_BLOCK):
        yield np.argsort(generator.random((_ORDERS_PER_BLOCK, n)), axis=1)
