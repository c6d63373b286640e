"""The analysis of a study: everything a report says, computed once; the writers only format it."""

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
from eyeswap.report.analysis.pairs import MARGIN, Comparison, compare_averages, compare_benchmarks, rank_arms
from eyeswap.report.analysis.predictors import Predictor, predictors, weak_weights
from eyeswap.report.analysis.published import PublishedComparison, compare_with_published, published_points
from eyeswap.report.analysis.seeds import SeedSpread, seed_spreads, share_detecting, with_spreads
from eyeswap.report.analysis.study import StudyResults, gather, score_records
from eyeswap.report.analysis.tuning import Tuning, tuning
from eyeswap.report.analysis.verdict import Verdict, judge
from eyeswap.report.style import short_names
from eyeswap.results.published import PublishedResult
from eyeswap.statistics.ranks import Rank

Standing = Literal["best", "level", "behind"]


@dataclass(frozen=True)
class Analysis:
    """The analysis of a study.

    Attributes:
        results: the arms and their runs.
        margin: largest loss, in points, that counts as negligible.
        seeds: average or benchmark to its variation between training runs, where known.
        averages: every pair of arms on every weighted average.
        benchmarks: every pair of arms on every benchmark.
        ranks: average to arm to its rank, with an interval.
        predictors: properties of the arms known before training, correlated with their scores.
        tuning: arms matched and tuned side by side; None if the study does not tune.
        budgets: the cost of each arm in tokens, FLOPs, seconds and parameters.
        published: our averages that have a published counterpart.
        published_points: points of the published Figure 1, if an arm is among its models.
        grounding: why boxes are wrong; empty without localization benchmarks.
        collapse: whether each arm's localization has collapsed, with evidence; empty without localization benchmarks.
        profile: latency and memory against resolution, if the study's folder has a profile.
        audit: what was held fixed; None if fewer than two runs are finished.
        verdict: the conclusions in words.
    """

    results: StudyResults
    margin: float
    seeds: dict[str, SeedSpread]
    averages: list[Comparison]
    benchmarks: list[Comparison]
    ranks: dict[str, dict[str, Rank]]
    predictors: list[Predictor]
    tuning: Tuning | None
    budgets: list[Budget]
    published: list[PublishedComparison]
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
        """Return an arm's standing in an average or benchmark: best, not told apart from the best, or behind."""
        rank = self._ranks.get(where, {}).get(arm)
        if rank is None or rank.low > 1:
            return "behind"
        return "best" if rank.value == 1 else "level"

    @property
    def covered(self) -> str:
        """The sources of variation that the intervals cover."""
        known = [group in self.seeds for group in self.results.groups]
        return "images and seeds" if all(known) else "images and, where known, seeds" if any(known) else "images alone"

    @property
    def share_detecting(self) -> str:
        """How many such studies find a difference as large as the detectable one."""
        return share_detecting(self.results, self.seeds)

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
    def _ranks(self) -> dict[str, dict[str, Rank]]:
        return rank_arms([*self.averages, *self.benchmarks])


def analyse(study_dir: Path, margin: float = MARGIN) -> Analysis:
    """Read a study's folder and compute everything a report shows.

    Args:
        study_dir: the study's folder.
        margin: largest loss, in points, that counts as negligible for "no worse than".

    Raises:
        DataError: if a file is missing or damaged (the message names it), or if the margin is not above 0.
    """
    without_seeds = gather(study_dir)
    seeds = seed_spreads(without_seeds)
    results = with_spreads(without_seeds, seeds)
    averages = compare_averages(results, margin, seeds)
    profile = find_profile(study_dir)
    audit, known, collapse = audited(results), predictors(results), diagnosed(results)
    published = compare_with_published(results)
    return Analysis(
        results=results,
        margin=margin,
        seeds=seeds,
        averages=averages,
        benchmarks=compare_benchmarks(results, margin, seeds),
        ranks=rank_arms(averages),
        predictors=known,
        tuning=tuning(results),
        budgets=budgets(results, profile) if results.finished_arms else [],
        published=published,
        published_points=published_points(results, published),
        grounding=grounding(results),
        collapse=collapse,
        profile=profile,
        audit=audit,
        verdict=judge(results, averages, known, collapse, seeds, weak_weights(known)),
    )
