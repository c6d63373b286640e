"""Confidence intervals of ranks: which places in the ranking an arm may truly have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eyeswap.statistics.resampling import LEVEL


@dataclass(frozen=True)
class Rank:
    """The rank of one arm; 1 is the best.

    Attributes:
        value: rank of its observed score; arms with equal scores share the better rank.
        low: the best rank in its interval.
        high: the worst rank in its interval.
    """

    value: int
    low: int
    high: int


def with_implied(p_values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Return p-values of "arm i is better than arm j", lowered to what other pairs imply by transitivity.

    If ``i`` is shown to be better than ``l`` and ``l`` better than ``j``, then ``i`` is better than ``j``, however
    imprecise that pair alone is; the added claim can be wrong only if one of the other two is. The claims about pairs
    then form a partial order, so that ranks cannot claim more than pairs do.

    Args:
        p_values: ``(i, j)``, where ``i`` has the higher score, to the adjusted p-value of the pair.
    """
    implied = dict(p_values)
    arms = sorted({arm for pair in p_values for arm in pair})
    for middle in arms:  # Floyd-Warshall: over all chains of arms, the smallest of the chains' largest p-values
        for i, j in p_values:
            links = (i, middle), (middle, j)
            if all(link in implied for link in links):
                implied[i, j] = min(implied[i, j], max(implied[link] for link in links))
    return implied


def rank_intervals(
    values: Sequence[float], p_values: Mapping[tuple[int, int], float], alpha: float = 1 - LEVEL
) -> list[Rank]:
    """Return the rank of each arm with an interval; all intervals hold simultaneously with probability ``1 - alpha``.

    An arm's best rank comes right after all arms that are shown to be better, its worst right before all that are shown
    to be worse (Mohamad, van Zwet, Solari and Goeman 2022; Mogstad, Romano, Shaikh and Wilhelm 2024). Bootstrapping the
    ranks themselves would be overconfident where arms are close.

    Args:
        values: the score of each arm.
        p_values: ``(i, j)``, ``i < j``, to the p-value of "arms i and j are equal", adjusted over at least all pairs.
        alpha: probability that at least one interval is wrong.
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
