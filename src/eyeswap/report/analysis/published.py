"""Comparison with the published study, for arms that are among its models.

Whether a published average lies *within* our interval is stated only if both average the same test sets with the same
weights and use the same language model; otherwise the report says what differs and draws no conclusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eyeswap.evaluation import BENCHMARKS
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.results.averages import average, members
from eyeswap.results.published import PublishedResult, official_entry, published_for_arm, published_results, within

LANGUAGE_MODEL = "vicuna-7b-v1.5"


@dataclass(frozen=True)
class PublishedComparison:
    """One average of one arm and its published counterpart, percent.

    Attributes:
        arm: the arm's name.
        group: ``vqa``, ``localization`` or ``overall``.
        value: our value, with the published weights of the benchmarks.
        low: lower end of its 95% interval.
        high: upper end.
        published: the published value.
        result: the published model, with source and precision.
        differs: what else differs between the two, so that they are not comparable; empty if nothing does.
    """

    arm: str
    group: str
    value: float
    low: float
    high: float
    published: float
    result: PublishedResult
    differs: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """``within``, ``outside``, or ``not comparable``."""
        if self.differs:
            return "not comparable"
        return "within" if within((self.low, self.high), self.published, self.result.precision) else "outside"


def compare_with_published(results: StudyResults) -> list[PublishedComparison]:
    """Return every average of ours that has a published counterpart, in the order of the arms."""
    recipe = results.study.get("recipe", {})
    comparisons = []
    for arm in results.finished_arms:
        is_official = official_entry(arm.runs[0].record) is not None
        result = published_for_arm(_declared(results, arm), recipe) if is_official else None
        if result is None:
            continue
        for group, positions in members([predictions.group for predictions in arm.predictions]).items():
            if group in result.scores:
                pieces = [piece for i in positions for piece in arm.predictions[i].pieces("published")]
                ours = average(pieces, arm.seed_variances.get(group))
                differs = _differs(recipe, group, [arm.predictions[i].name for i in positions], results.study)
                numbers = (100 * ours.value, 100 * ours.low, 100 * ours.high)
                comparisons.append(
                    PublishedComparison(arm.name, group, *numbers, result.scores[group], result, differs)
                )
    return comparisons


def published_points(results: StudyResults, comparisons: list[PublishedComparison]) -> list[PublishedResult]:
    """Return the published models to draw beside ours: those with our arms' objectives, if an arm is among them."""
    if not comparisons:
        return []
    objectives = {arm.objective for arm in results.finished_arms}
    return [result for result in published_results() if result.objective in objectives]


def _declared(results: StudyResults, arm: Arm) -> Mapping[str, Any]:
    declared: Mapping[str, Any] = results.study["arms"][arm.name]
    return declared if "backbone" in declared else {"backbone": arm.backbone.name or ""}


def _differs(recipe: Mapping[str, Any], group: str, names: list[str], study: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what differs between our average and the published one."""
    published = {benchmark.name for benchmark in BENCHMARKS.values() if group in (benchmark.group, "overall")}
    differs = []
    if set(names) != published:
        differs.append("other benchmarks")
    if recipe.get("data", {}).get("name") == "digits":
        differs.append("the embedded data")
    if study.get("subset"):
        differs.append(f"{study['subset']} examples of each benchmark")
    if not str(recipe.get("llm", "")).endswith(LANGUAGE_MODEL):
        differs.append(f"language model {recipe.get('llm', 'not recorded')}")
    return tuple(differs)
