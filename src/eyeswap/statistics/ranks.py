"""Which places in a ranking an arm may truly have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eyeswap.statistics.differences import holm
from eyeswap.statistics.resampling import LEVEL


@dataclass(frozen=True)
class Rank:
    """The place of one arm; 1 is the best.

    Attributes:
        value: place of its score among those seen; arms with equal scores share the better place.
        low: the best place that it may truly have.
        high: the worst.
    """

    value: int
    low: int
    high: int


def rank_intervals(
    values: Sequence[float], p_values: Mapping[tuple[int, int], float], alpha: float = 1 - LEVEL
) -> list[Rank]:
    """Return the rank of each arm with an interval; all intervals hold at once with probability ``1 - alpha``.

    An arm's best place is one behind all arms that are shown to be better, its worst is before all that are shown to
    be worse, where "shown" is Holm-adjusted over all pairs (Mohamad, van Zwet, Solari and Goeman 2022; Mogstad,
    Romano, Shaikh and Wilhelm 2024). Resampling ranks themselves would promise too much when arms are close.

    Args:
        values: the score of each arm.
        p_values: ``(i, j)``, ``i < j``, to the p-value of "arms i and j are equal", not adjusted.
        alpha: chance that one interval or more is wrong.
    """
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    better, worse = [0] * len(values), [0] * len(values)
    for (i, j), p in adjusted.items():
        if p < alpha:
            ahead, behind = (i, j) if values[i] > values[j] else (j, i)
            better[behind] += 1
            worse[ahead] += 1
    return [
        Rank(1 + sum(other > value for other in values), 1 + better[i], len(values) - worse[i])
        for i, value in enumerate(values)
    ]
