"""Paired comparisons of all arms: differences, intervals, tests, and ranks.

All pairs of arms on all averages are one family of tests, all pairs on all single benchmarks another; p-values are
adjusted by Holm within each family. Where the variation between training runs is known
(`eyeswap.report.analysis.seeds`), intervals and tests cover it; where it is not, the most that can be said is that two
arms differ in these training runs, on these images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from eyeswap.report.analysis.seeds import SeedSpread, benchmark_positions, paired_seeds
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.results.averages import gather_pieces
from eyeswap.results.scores import Predictions, pool_seeds
from eyeswap.statistics.differences import McNemar, compare_arms, holm, mcnemar
from eyeswap.statistics.equivalence import Equivalence, equivalence, minimum_detectable
from eyeswap.statistics.ranks import Rank, rank_intervals, with_implied
from eyeswap.statistics.resampling import LEVEL, Interval

ALPHA = 1 - LEVEL
RIGHT = 0.5  # answers with at least this score count as correct where only correct or wrong is shown
MAX_DIFFERENCE = 100.0  # points
MARGIN = 1.0  # points; the default of the largest loss that counts as negligible


@dataclass(frozen=True)
class Comparison:
    """Two arms on one average or benchmark; ``ahead`` has the higher score. All numbers but p-values are in points.

    Attributes:
        where: an average (``vqa``, ``localization``, ``overall``) or a benchmark's short name.
        ahead: name of the arm with the higher score.
        behind: name of the other arm.
        value: the difference, at least 0.
        low: lower end of its 95% interval (of this pair alone, not adjusted).
        high: upper end of the interval.
        raw_p: p-value of "the two are equal", of this pair alone.
        p: the same, adjusted by Holm within the family and lowered to what other pairs imply.
        over_seeds: whether interval and p-values cover variation between training runs, not just the runs at hand.
        detectable: smallest true difference that this study is meant to detect with 80% power after the correction
            (see `share_detecting` for how often it does); None if the variation between training runs is unknown, or
            if no possible difference would be detected.
        equivalence: non-inferiority in both directions at the margin; p-values adjusted by Holm within the family.
        mcnemar: McNemar's test of the first seeds, ``ahead`` first; None for averages over several benchmarks, and
            unless all scores are 0 or 1.
    """

    where: str
    ahead: str
    behind: str
    value: float
    low: float
    high: float
    raw_p: float
    p: float
    over_seeds: bool
    detectable: float | None
    equivalence: Equivalence
    mcnemar: McNemar | None

    @property
    def told_apart(self) -> bool:
        """Whether the two differ significantly: as arms, or only as the training runs at hand."""
        return self.p < ALPHA

    @property
    def decided(self) -> bool:
        """Whether the two arms differ significantly, variation between training runs included."""
        return self.told_apart and self.over_seeds

    @property
    def is_open(self) -> bool:
        """Whether nothing has been shown about the two."""
        return self.in_words in ("not decided", "not told apart")

    @property
    def in_words(self) -> str:
        """What has been shown about the two.

        ``decided``, ``equivalent``, ``no worse`` (the one behind, by the margin) or ``not decided``; where the
        variation between training runs is unknown, ``higher in these runs`` or ``not told apart``.
        """
        if not self.over_seeds:
            return "higher in these runs" if self.told_apart else "not told apart"
        if self.decided:
            return "decided"
        if self.equivalence.p_equivalent < ALPHA:
            return "equivalent"
        return "no worse" if self.equivalence.p_no_better < ALPHA else "not decided"


def compare_averages(
    results: StudyResults, margin: float = MARGIN, spreads: Mapping[str, SeedSpread] = MappingProxyType({})
) -> list[Comparison]:
    """Compare all pairs of finished arms on all averages, with p-values adjusted together.

    Args:
        results: the runs.
        margin: the largest loss, in points, that counts as negligible.
        spreads: what is known about the variation between training runs.

    Raises:
        DataError: if the margin is not above 0.
    """
    positions = benchmark_positions(results)
    averages = {where: positions[where] for where in positions if where in results.groups}
    return _compare(results.finished_arms, averages, margin, spreads)


def compare_benchmarks(
    results: StudyResults, margin: float = MARGIN, spreads: Mapping[str, SeedSpread] = MappingProxyType({})
) -> list[Comparison]:
    """Compare all pairs of finished arms on every single benchmark; otherwise as `compare_averages`."""
    positions = benchmark_positions(results)
    single = {where: positions[where] for where in positions if where not in results.groups}
    return _compare(results.finished_arms, single, margin, spreads)


def rank_arms(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Rank]]:
    """Return the rank of every arm, with its interval, in every average or benchmark compared.

    Ranks are derived from the scores, seeds and adjusted p-values of the pairs, so that the two cannot contradict.
    """
    by_place: dict[str, list[Comparison]] = {}
    for pair in comparisons:
        by_place.setdefault(pair.where, []).append(pair)
    return {where: _ranks(pairs) for where, pairs in by_place.items()}


def _ranks(pairs: Sequence[Comparison]) -> dict[str, Rank]:
    """Return the rank of each arm from all pairs on one average or benchmark."""
    losses = {pair.behind for pair in pairs if pair.value > 0}
    best = next(pair.ahead for pair in pairs if pair.ahead not in losses)
    values = {best: 0.0} | {pair.behind: -pair.value for pair in pairs if pair.ahead == best}
    values |= {pair.ahead: 0.0 for pair in pairs if pair.behind == best}  # a tie with the best
    names = list(values)
    p_values = {(names.index(pair.ahead), names.index(pair.behind)): pair.p for pair in pairs}
    return dict(zip(names, rank_intervals(list(values.values()), p_values), strict=True))


def _compare(
    arms: Sequence[Arm], averages: Mapping[str, Sequence[int]], margin: float, spreads: Mapping[str, SeedSpread]
) -> list[Comparison]:
    """Compare pairs of arms on the average over each named list of benchmarks; the largest difference comes first."""
    if len(arms) < 2:
        return []
    predictions = _on_equal_seeds(arms)
    comparisons = []
    for where, positions in averages.items():
        sample = gather_pieces([[piece for i in positions for piece in of_arm[i].pieces()] for of_arm in predictions])
        has_seeds = sample.values.shape[1] > 1
        stated = None if has_seeds or where not in spreads else spreads[where].variance
        for (i, j), (interval, p) in compare_arms(sample, seeds=stated).items():
            ahead, behind = (i, j) if interval.value >= 0 else (j, i)
            points = interval.times(100 if ahead == i else -100)
            comparison = Comparison(
                where=where,
                ahead=arms[ahead].name,
                behind=arms[behind].name,
                value=points.value,
                low=points.low,
                high=points.high,
                raw_p=p,
                p=p,
                over_seeds=has_seeds or stated is not None,
                detectable=None,
                equivalence=equivalence(points, margin),
                mcnemar=_mcnemar(*(predictions[arm][positions[0]] for arm in (ahead, behind)))
                if len(positions) == 1
                else None,
            )
            comparisons.append((comparison, points))
    order = list(averages)
    return sorted(_adjusted(comparisons), key=lambda pair: (order.index(pair.where), -pair.value))


def _on_equal_seeds(arms: Sequence[Arm]) -> list[list[Predictions]]:
    """Return each arm's predictions pooled over the seeds that all arms have, or of each arm's first seed if none."""
    seeds = paired_seeds(arms)
    if not seeds:
        return [arm.runs[0].predictions for arm in arms]
    return [pool_seeds([run.predictions for run in arm.runs if run.seed in seeds]) for arm in arms]


def _adjusted(family: Sequence[tuple[Comparison, Interval]]) -> list[Comparison]:
    """Adjust all p-values by Holm, and compute detectable differences at the level of Holm's first step."""
    pairs = [pair for pair, _ in family]
    p_values = _implied(pairs, holm([pair.p for pair in pairs]))
    bounds = holm([p for pair in pairs for p in (pair.equivalence.p_no_worse, pair.equivalence.p_no_better)])
    return [
        replace(
            pair,
            p=p,
            detectable=_detectable(interval, ALPHA / len(family)) if pair.over_seeds else None,
            equivalence=replace(pair.equivalence, p_no_worse=no_worse, p_no_better=no_better),
        )
        for (pair, interval), p, no_worse, no_better in zip(family, p_values, bounds[::2], bounds[1::2], strict=True)
    ]


def _implied(pairs: Sequence[Comparison], p_values: Sequence[float]) -> list[float]:
    """Return the p-values, lowered to what pairs on the same average or benchmark imply for each other."""
    names = sorted({name for pair in pairs for name in (pair.ahead, pair.behind)})
    by_place: dict[str, dict[tuple[int, int], float]] = {}
    for pair, p in zip(pairs, p_values, strict=True):
        by_place.setdefault(pair.where, {})[names.index(pair.ahead), names.index(pair.behind)] = p
    implied = {where: with_implied(of_place) for where, of_place in by_place.items()}
    return [implied[pair.where][names.index(pair.ahead), names.index(pair.behind)] for pair in pairs]


def _detectable(interval: Interval, alpha: float) -> float | None:
    """Return the detectable difference in points; None without any spread, and above the largest possible."""
    points = minimum_detectable(interval, alpha)
    return points if 0 < points <= MAX_DIFFERENCE else None


def _mcnemar(ahead: Predictions, behind: Predictions) -> McNemar | None:
    """Return McNemar's test of the two arms' first seeds."""
    return mcnemar(*(arm.score if arm.seed_scores is None else arm.seed_scores[0] for arm in (ahead, behind)))
