"""Every pair of arms, on the same examples: the difference, its interval, and what is decided.

All pairs and all averages of a study are one family of tests, all pairs and all single benchmarks another; p-values are
adjusted by Holm within each. With several seeds the seed is resampled too, so that a difference counts only if it is
larger than the luck of training runs (`eyeswap.statistics.differences.judged_differences`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.results.averages import gather_pieces
from eyeswap.results.scores import Predictions, pool_seeds
from eyeswap.statistics.differences import holm, judged_differences, mcnemar
from eyeswap.statistics.equivalence import Equivalence, equivalence, minimum_detectable
from eyeswap.statistics.ranks import Rank, rank_intervals
from eyeswap.statistics.resampling import LEVEL, Interval

ALPHA = 1 - LEVEL
RIGHT = 0.5  # an answer with at least this score counts as right where only right or wrong is shown
MARGIN = 1.0  # points; the loss that counts as none where nothing else is asked for


@dataclass(frozen=True)
class McNemar:
    """How often one arm alone is right, in the first seed; ``p`` is exact, and takes questions as independent."""

    only_ahead: int
    only_behind: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two arms on one average or benchmark; ``ahead`` has the higher score. All numbers but p-values are points.

    Attributes:
        where: a group (``vqa``, ``localization``, ``overall``) or a benchmark's short name.
        ahead: name of the arm with the higher score.
        behind: name of the other arm.
        value: the difference, at least 0.
        low: lower end of its 95% interval (of this pair alone, not adjusted).
        high: upper end of the interval.
        raw_p: p-value of "the two are equal", of this pair alone.
        p: the same, adjusted by Holm within the family.
        detectable: smallest true difference that this study finds with a chance of 80% after the correction.
        equivalence: is either no worse than the other by the margin? P-values adjusted by Holm within the family.
        mcnemar: None for averages of several benchmarks, and where scores are not all 0 or 1.
    """

    where: str
    ahead: str
    behind: str
    value: float
    low: float
    high: float
    raw_p: float
    p: float
    detectable: float
    equivalence: Equivalence
    mcnemar: McNemar | None

    @property
    def decided(self) -> bool:
        """Whether the data tell the two arms apart."""
        return self.p < ALPHA

    @property
    def in_words(self) -> str:
        """``decided``, ``equivalent``, ``no worse`` (the one behind, by the margin) or ``not decided``."""
        if self.decided:
            return "decided"
        if self.equivalence.p_equivalent < ALPHA:
            return "equivalent"
        return "no worse" if self.equivalence.p_no_better < ALPHA else "not decided"


def compare_averages(results: StudyResults, margin: float = MARGIN) -> list[Comparison]:
    """Compare all pairs of finished arms on all averages, adjusted together.

    Raises:
        DataError: if the margin, in points, is not above 0.
    """
    members = {
        group: [i for i, one in enumerate(results.benchmarks) if group in (one.group, "overall")]
        for group in results.groups
    }
    return _compare(results.finished_arms, members, margin)


def compare_benchmarks(results: StudyResults, margin: float = MARGIN) -> list[Comparison]:
    """Compare all pairs of finished arms on every single benchmark, adjusted together.

    Raises:
        DataError: if the margin, in points, is not above 0.
    """
    members = {one.name: [i] for i, one in enumerate(results.benchmarks)}
    return _compare(results.finished_arms, members, margin)


def rank_averages(results: StudyResults, comparisons: Sequence[Comparison]) -> dict[str, dict[str, Rank]]:
    """Return the rank of every finished arm in every average, with the places that it may truly have."""
    names = [arm.name for arm in results.finished_arms]
    ranks = {}
    for group in results.groups:
        values = [arm.scores.averages[group].value for arm in results.finished_arms]
        p_values = {
            (min(places), max(places)): pair.raw_p
            for pair in comparisons
            if pair.where == group
            for places in [(names.index(pair.ahead), names.index(pair.behind))]
        }
        ranks[group] = dict(zip(names, rank_intervals(values, p_values), strict=True))
    return ranks


def paired_seeds(arms: Sequence[Arm]) -> list[int]:
    """Return the seeds that all arms have finished; they are what pairs are compared on."""
    return [run.seed for run in arms[0].runs if all(run.seed in {own.seed for own in arm.runs} for arm in arms)]


def _compare(arms: Sequence[Arm], members: Mapping[str, Sequence[int]], margin: float) -> list[Comparison]:
    """Compare pairs of arms on each named list of benchmark positions; the largest difference comes first."""
    if len(arms) < 2:
        return []
    answered = _on_equal_seeds(arms)
    found = []
    for where, positions in members.items():
        sample = gather_pieces([[piece for i in positions for piece in own[i].pieces()] for own in answered])
        for (i, j), (interval, p) in judged_differences(sample).items():
            ahead, behind = (i, j) if interval.value >= 0 else (j, i)
            upwards = _upwards(interval)
            one = _comparison(where, arms[ahead].name, arms[behind].name, upwards, p, margin)
            if len(positions) == 1:
                one = replace(one, mcnemar=_mcnemar(*(answered[arm][positions[0]] for arm in (ahead, behind))))
            found.append((one, upwards))
    order = list(members)
    return sorted(_adjusted(found), key=lambda pair: (order.index(pair.where), -pair.value))


def _on_equal_seeds(arms: Sequence[Arm]) -> list[list[Predictions]]:
    """Return each arm's predictions over the seeds that all have; over the first of each if they share none."""
    seeds = paired_seeds(arms)
    if not seeds:
        return [arm.runs[0].predictions for arm in arms]
    return [pool_seeds([run.predictions for run in arm.runs if run.seed in seeds]) for arm in arms]


def _comparison(where: str, ahead: str, behind: str, interval: Interval, p: float, margin: float) -> Comparison:
    return Comparison(
        where=where,
        ahead=ahead,
        behind=behind,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        raw_p=p,
        p=p,
        detectable=minimum_detectable(interval),
        equivalence=equivalence(interval, margin),
        mcnemar=None,
    )


def _upwards(interval: Interval) -> Interval:
    """Return a difference in points, turned so that it is at least 0."""
    low, high = (interval.low, interval.high) if interval.value >= 0 else (-interval.high, -interval.low)
    return replace(
        interval,
        value=100 * abs(interval.value),
        low=100 * low,
        high=100 * high,
        standard_error=100 * interval.standard_error,
        seed_error=100 * interval.seed_error,
    )


def _adjusted(found: Sequence[tuple[Comparison, Interval]]) -> list[Comparison]:
    """Adjust all p-values by Holm, and the detectable difference to the level that the first step of Holm has."""
    differ = holm([pair.p for pair, _ in found])
    bounds = holm([p for pair, _ in found for p in (pair.equivalence.p_no_worse, pair.equivalence.p_no_better)])
    return [
        replace(
            pair,
            p=p,
            detectable=minimum_detectable(interval, ALPHA / len(found)),
            equivalence=replace(pair.equivalence, p_no_worse=no_worse, p_no_better=no_better),
        )
        for (pair, interval), p, no_worse, no_better in zip(found, differ, bounds[::2], bounds[1::2], strict=True)
    ]


def _mcnemar(ahead: Predictions, behind: Predictions) -> McNemar | None:
    first, second = (one.score if one.seed_scores is None else one.seed_scores[0] for one in (ahead, behind))
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        return None
    return McNemar(*mcnemar(first == 1, second == 1))
