"""Does one number of a backbone predict another? Rank correlations over few arms, with honest intervals.

The arms are what is drawn by chance here: ``n`` is the number of arms, not of images, and with four of them hardly
anything can be shown. Each result therefore carries ``n``, an interval that has the width that few arms give, and the
smallest p-value that any data could have reached.
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
MOST_TO_ENUMERATE = 8  # 8! = 40,320 orders
NUM_PERMUTATIONS = 20_000
_OFFSET: dict[Method, int] = {"spearman": 3, "kendall": 4}  # arms that the interval's formula takes off
_BLOCK = 1_000
_TIE = 1e-9


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over arms.

    Attributes:
        method: ``spearman`` (rho) or ``kendall`` (tau-b).
        n: number of arms.
        value: the correlation; None if there are fewer than three arms, or one side has a single value.
        low: lower end of the 95% interval; None where no interval exists.
        high: upper end.
        p: two-sided p-value of the permutation test.
        smallest_p: the least p-value that ``n`` arms without ties could have reached.
        why_not: what is missing, where a number is None.
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
        """Whether the data show that the two go together at all, at the 5% level."""
        return self.p is not None and self.p < 1 - LEVEL


def correlate(x: Sequence[float], y: Sequence[float], method: Method = "spearman", seed: int = 0) -> Correlation:
    """Return the rank correlation of two numbers of the same arms, with its interval and permutation test.

    Args:
        x: one number an arm, such as ImageNet accuracy.
        y: another, such as a VLM score.
        method: ``spearman`` or ``kendall``.
        seed: seed of the random orders, where there are too many arms to try all.

    Raises:
        DataError: if lengths differ, or a number is not finite.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"correlation of {first.shape} and {second.shape} values: give one pair an arm")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("correlation: a value is not a finite number; leave that arm out")
    n = len(first)
    if n < 3:
        return Correlation(method, n, why_not=f"{n} arms; a rank correlation needs at least three")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(method, n, why_not="all arms have the same value on one side")
    left, right = _scores(first, method), _scores(second, method)
    value = float((left * right).sum() / math.sqrt((left**2).sum() * (right**2).sum()))
    value = min(1.0, max(-1.0, value))
    bounds = interval(value, n, method)
    low, high = bounds if bounds else (None, None)
    why_not = "" if bounds else f"{n} arms; this interval needs at least {_OFFSET[method] + 1}"
    p = _permutation_p(left, right, method, seed)
    smallest = 2 / math.factorial(n) if n <= MOST_TO_ENUMERATE else 1 / (NUM_PERMUTATIONS + 1)
    return Correlation(method, n, value, low, high, p, smallest, why_not)


def interval(value: float, n: int, method: Method) -> tuple[float, float] | None:
    """Return the 95% interval of a rank correlation over ``n`` arms; None if they are too few for one.

    ``tanh(atanh(r) -+ z * s)`` with ``s**2 = (1 + r**2 / 2) / (n - 3)`` for Spearman (Bonett and Wright 2000,
    Psychometrika 65:23) and ``s**2 = 0.437 / (n - 4)`` for Kendall (Fieller, Hartley and Pearson 1957, Biometrika
    44:470). A perfect order counts as half a step short of perfect, so that its interval is not a point; the end at
    which it stands is then 1.
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
    """Return centred ranks ``[n]`` (Spearman), or the signs of all differences ``[n, n]`` (Kendall)."""
    if method == "spearman":
        ranks = stats.rankdata(values)
        return np.asarray(ranks - ranks.mean())
    return np.sign(values[:, np.newaxis] - values[np.newaxis])


def _permutation_p(left: Floats, right: Floats, method: Method, seed: int) -> float:
    """Return the share of orders of the arms whose correlation is at least as far from zero as the one seen."""
    seen = abs(float((left * right).sum())) * (1 - _TIE)
    as_far, total = 0, 0
    for orders in _orders(len(left), seed):  # [r, n]
        if method == "spearman":
            sums = right[orders] @ left
        else:
            sums = np.einsum("rij,ij->r", right[orders[:, :, np.newaxis], orders[:, np.newaxis, :]], left)
        as_far += int((np.abs(sums) >= seen).sum())
        total += len(orders)
    if len(left) > MOST_TO_ENUMERATE:
        as_far, total = as_far + 1, total + 1
    return as_far / total


def _orders(n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield blocks ``[r, n]`` of orders: all of them if ``n`` is small, else random ones."""
    if n <= MOST_TO_ENUMERATE:
        yield np.array(list(permutations(range(n))))
        return
    generator = np.random.default_rng(seed)
    for _ in range(NUM_PERMUTATIONS // _BLOCK):
        yield np.argsort(generator.random((_BLOCK, n)), axis=1)
