"""Which places in a ranking an arm may truly have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def with_implied(p_values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Return p-values of "arm i is better than arm j" that take in what other pairs imply.

    If ``i`` is shown to be better than ``l`` and ``l`` better than ``j``, then ``i`` is better than ``j``, whatever the
    precision of that pair alone: no claim is added that is wrong unless one of the two is. What is shown of pairs is
    then an order, and ranks cannot say more than pairs do.

    Args:
        p_values: ``(i, j)``, where ``i`` has the higher score, to the adjusted p-value of the pair.
    """
    found = dict(p_values)
    arms = sorted({arm for pair in p_values for arm in pair})
    for between in arms:
        for i, j in p_values:
            steps = (i, between), (between, j)
            if all(step in found for step in steps):
                found[i, j] = min(found[i, j], max(found[step] for step in steps))
    return found


def rank_intervals(
    values: Sequence[float], p_values: Mapping[tuple[int, int], float], alpha: float = 1 - LEVEL
) -> list[Rank]:
    """Return the rank of each arm with an interval; all intervals hold at once with probability ``1 - alpha``.

    An arm's best place is one behind all arms that are shown to be better, its worst is before all that are shown to
    be worse (Mohamad, van Zwet, Solari and Goeman 2022; Mogstad, Romano, Shaikh and Wilhelm 2024). Resampling ranks
    themselves would promise too much when arms are close.

    Args:
        values: the score of each arm.
        p_values: ``(i, j)``, ``i < j``, to the p-value of "arms i and j are equal", adjusted over at least all pairs.
        alpha: chance that one interval or more is wrong.
    """
    better, worse = [0] * len(values), [0] * len(values)
    for (i, j), p in p_values.items():
        if p < alpha:
            ahead, behind = (i, j) if values[i] > values[j] else (j, i)
            better[behind] += 1
            worse[ahead] += 1
    return [
        Rank(1 + sum(other > value for other in values), 1 + better[i], len(values) - worse[i])
        for i, value in enumerate(values)
    ]
