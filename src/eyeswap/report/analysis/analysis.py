"""Everything a report says, computed once from a study's folder; the writers only lay it out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from eyeswap.audit.audit import AuditReport
from eyeswap.collapse.verdict import ArmDiagnosis
from eyeswap.planning.profile import Cell
from eyeswap.report.analysis.boxes import Grounding, grounding
from eyeswap.report.analysis.costs import Budget, budgets, find_profile
from eyeswap.report.analysis.fixed import audited, diagnosed
from eyeswap.report.analysis.pairs import MARGIN, Comparison, compare_averages, compare_benchmarks, rank_averages
from eyeswap.report.analysis.predictors import Predictor, predictors
from eyeswap.report.analysis.published import Beside, published_beside, published_points
from eyeswap.report.analysis.study import StudyResults, gather, score_records
from eyeswap.report.analysis.verdict import Verdict, judge
from eyeswap.report.style import short_names
from eyeswap.results.published import PublishedResult
from eyeswap.statistics.ranks import Rank

Standing = Literal["best", "level", "behind"]


@dataclass(frozen=True)
class Analysis:
    """What a study shows.

    Attributes:
        results: the runs, as their folders tell.
        margin: loss in points that counts as none.
        averages: every pair of arms on every weighted average.
        benchmarks: every pair on every benchmark.
        ranks: average to arm to its rank, with the places that it may truly have.
        predictors: what is known of the arms beforehand, against their scores.
        budgets: what each arm costs, in four currencies.
        beside: averages of ours that have a published one.
        published_points: the published study's Figure 1 beside ours, where arms are of it.
        grounding: why boxes are wrong; empty without localization benchmarks.
        collapse: whether each arm's localization has collapsed, with the evidence; empty without localization.
        profile: latency and memory against resolution, where the study's folder holds it.
        audit: what was held fixed; None if fewer than two runs are finished.
        verdict: all of it in words.
    """

    results: StudyResults
    margin: float
    averages: list[Comparison]
    benchmarks: list[Comparison]
    ranks: dict[str, dict[str, Rank]]
    predictors: list[Predictor]
    budgets: list[Budget]
    beside: list[Beside]
    published_points: list[PublishedResult]
    grounding: list[Grounding]
    collapse: list[ArmDiagnosis]
    profile: list[Cell]
    audit: AuditReport | None
    verdict: Verdict

    def pair(self, where: str, one: str, other: str) -> Comparison | None:
        """Return the comparison of two arms on an average or benchmark, whichever is ahead."""
        return self._pairs.get((where, frozenset((one, other))))

    def standing(self, where: str, arm: str) -> Standing:
        """Return how an arm stands in an average or benchmark: best, not told apart from the best, or behind it."""
        best = self._best[where]
        if arm == best:
            return "best" if len(self.results.finished_arms) > 1 else "behind"
        pair = self.pair(where, arm, best)
        return "behind" if pair is None or pair.decided else "level"

    def to_records(self) -> list[dict[str, Any]]:
        """Return one record for each run and benchmark or average, for ``pandas.DataFrame``; scores in percent."""
        return score_records(self.results)

    @cached_property
    def labels(self) -> dict[str, str]:
        """The arms' names for figures, shortened where they are long."""
        families = {str(arm.backbone.family) for arm in self.results.finished_arms}
        return short_names([arm.name for arm in self.results.arms], families)

    @cached_property
    def _pairs(self) -> dict[tuple[str, frozenset[str]], Comparison]:
        return {(pair.where, frozenset((pair.ahead, pair.behind))): pair for pair in (*self.averages, *self.benchmarks)}

    @cached_property
    def _best(self) -> dict[str, str]:
        arms = self.results.finished_arms
        found = {
            group: max(arms, key=lambda arm: arm.scores.averages[group].value).name for group in self.results.groups
        }
        return found | {
            one.name: max(arms, key=lambda arm: arm.scores.benchmarks[one.name].score.value).name
            for one in self.results.benchmarks
        }


def analyse(study_dir: Path, margin: float = MARGIN) -> Analysis:
    """Read a study's folder and work out all that a report shows.

    Args:
        study_dir: the study's folder.
        margin: loss in points that counts as none, for "no worse than".

    Raises:
        DataError: naming the file that is missing or damaged, or if the margin is not above 0.
    """
    results = gather(study_dir)
    averages = compare_averages(results, margin)
    profile = find_profile(study_dir)
    audit, known, collapse = audited(results), predictors(results), diagnosed(results)
    beside = published_beside(results)
    return Analysis(
        results=results,
        margin=margin,
        averages=averages,
        benchmarks=compare_benchmarks(results, margin),
        ranks=rank_averages(results, averages) if averages else {},
        predictors=known,
        budgets=budgets(results, profile) if results.finished_arms else [],
        beside=beside,
        published_points=published_points(results, beside),
        grounding=grounding(results),
        collapse=collapse,
        profile=profile,
        audit=audit,
        verdict=judge(results, averages, known, collapse),
    )
