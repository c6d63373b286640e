"""Every pair of arms, on the same examples: the difference, its interval, and whether it is decided.

A difference is decided when its p-value, adjusted by Holm over all pairs and all averages of the study, is
below 0.05, and, if there are several seeds, when every seed agrees on the sign. Differences on single
benchmarks are a second family of tests with its own adjustment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyeswap.report.gather import Arm, StudyResults
from eyeswap.study.statistics import Interval, holm, mcnemar, pairwise_differences

ALPHA = 0.05
RIGHT = 0.5  # an answer with at least this score counts as right where only right or wrong is shown


@dataclass(frozen=True)
class Comparison:
    """Two arms on one average or benchmark; ``ahead`` has the higher score.

    Attributes:
        where: a group (``vqa``, ``localization``, ``overall``) or a benchmark's short name.
        ahead: name of the arm with the higher score.
        behind: name of the other arm.
        value: the difference in percentage points, at least 0.
        low: lower end of its 95% interval (of this pair alone, not adjusted).
        high: upper end of the interval.
        p: p-value adjusted by Holm within the family.
        seeds_agree: whether each seed alone has the same sign; True with one seed.
        only_ahead: examples that only ``ahead`` answers right (first seed).
        only_behind: examples that only ``behind`` answers right (first seed).
        p_mcnemar: exact McNemar p-value of these two counts, not adjusted.
    """

    where: str
    ahead: str
    behind: str
    value: float
    low: float
    high: float
    p: float
    seeds_agree: bool
    only_ahead: int
    only_behind: int
    p_mcnemar: float

    @property
    def decided(self) -> bool:
        """Whether the data tell the two arms apart."""
        return self.p < ALPHA and self.seeds_agree


def compare_averages(results: StudyResults) -> list[Comparison]:
    """Compare all pairs of finished arms on all averages, adjusted together."""
    members = {
        group: [i for i, one in enumerate(results.benchmarks) if group in (one.group, "overall")]
        for group in results.groups
    }
    return _compare(results.finished_arms, members)


def compare_benchmarks(results: StudyResults) -> list[Comparison]:
    """Compare all pairs of finished arms on every single benchmark, adjusted together."""
    members = {one.name: [i] for i, one in enumerate(results.benchmarks)}
    return _compare(results.finished_arms, members)


def _compare(arms: list[Arm], members: dict[str, list[int]]) -> list[Comparison]:
    """Compare pairs of arms on each named list of benchmark positions; the largest difference comes first."""
    raw = []
    for where, positions in members.items() if arms else ():
        differences = pairwise_differences(
            [np.stack([arm.predictions[i].score for arm in arms]) for i in positions],
            [arms[0].predictions[i].image for i in positions],
        )
        for (i, j), interval in differences.items():
            ahead, behind = (arms[i], arms[j]) if interval.value >= 0 else (arms[j], arms[i])
            raw.append((where, ahead, behind, interval, interval.p_value(), positions))
    adjusted = holm([p for *_, p, _ in raw])
    found = [
        _comparison(where, a, b, interval, p, positions)
        for (where, a, b, interval, _, positions), p in zip(raw, adjusted, strict=True)
    ]
    order = list(members)
    return sorted(found, key=lambda pair: (order.index(pair.where), -pair.value))


def _comparison(where: str, ahead: Arm, behind: Arm, interval: Interval, p: float, positions: list[int]) -> Comparison:
    right_a, right_b = (
        np.concatenate([arm.runs[0].predictions[i].score for i in positions]) >= RIGHT for arm in (ahead, behind)
    )
    only_ahead, only_behind, p_mcnemar = mcnemar(right_a, right_b)
    return Comparison(
        where=where,
        ahead=ahead.name,
        behind=behind.name,
        value=100 * abs(interval.value),
        low=100 * (interval.low if interval.value >= 0 else -interval.high),
        high=100 * (interval.high if interval.value >= 0 else -interval.low),
        p=p,
        seeds_agree=_seeds_agree(ahead, behind, positions),
        only_ahead=only_ahead,
        only_behind=only_behind,
        p_mcnemar=p_mcnemar,
    )


def _seeds_agree(ahead: Arm, behind: Arm, positions: list[int]) -> bool:
    """Whether ``ahead`` is ahead with every seed that both arms have finished."""
    other = {run.seed: run for run in behind.runs}
    shared = [(run, other[run.seed]) for run in ahead.runs if run.seed in other]
    if len(shared) < 2:
        return True
    return all(sum(np.sum(a.predictions[i].score - b.predictions[i].score) for i in positions) > 0 for a, b in shared)
