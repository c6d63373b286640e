"""The published study's numbers beside ours, where an arm is one of its models.

A published average lies *within* our interval or outside of it only if both average the same test sets with the same
weights and rest on the same language model; where they do not, the report says what differs and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eyeswap.evaluation import BENCHMARKS
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.results.averages import average, members
from eyeswap.results.published import PublishedResult, published_for_arm, published_results, within

LANGUAGE_MODEL = "vicuna-7b-v1.5"


@dataclass(frozen=True)
class Beside:
    """One average of one arm, and what was published of it; percent.

    Attributes:
        arm: the arm's name.
        group: ``vqa``, ``localization`` or ``overall``.
        value: ours, with the published weights of the benchmarks.
        low: lower end of its 95% interval.
        high: upper end.
        published: the published value.
        result: the published model, with source and precision.
        differs: what else differs, so that nothing can be decided; empty if nothing does.
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


def published_beside(results: StudyResults) -> list[Beside]:
    """Return every average of ours that has a published one, in the order of the arms."""
    recipe = results.study.get("recipe", {})
    found = []
    for arm in results.finished_arms:
        result = published_for_arm(_declared(results, arm), recipe)
        if result is None:
            continue
        for group, positions in members([one.group for one in arm.predictions]).items():
            if group in result.scores:
                pieces = [piece for i in positions for piece in arm.predictions[i].pieces("published")]
                ours = average(pieces, arm.seed_variances.get(group))
                differs = _differs(recipe, group, [arm.predictions[i].name for i in positions], results.study)
                numbers = (100 * ours.value, 100 * ours.low, 100 * ours.high)
                found.append(Beside(arm.name, group, *numbers, result.scores[group], result, differs))
    return found


def published_points(results: StudyResults, beside: list[Beside]) -> list[PublishedResult]:
    """Return the published models to draw beside ours: those of our arms' objectives, if an arm is among them."""
    if not beside:
        return []
    objectives = {arm.objective for arm in results.finished_arms}
    return [one for one in published_results() if one.objective in objectives]


def _declared(results: StudyResults, arm: Arm) -> Mapping[str, Any]:
    declared: Mapping[str, Any] = results.study["arms"][arm.name]
    return declared if "backbone" in declared else {"backbone": arm.backbone.name or ""}


def _differs(recipe: Mapping[str, Any], group: str, names: list[str], study: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what keeps an average of ours from being the published one."""
    wanted = {one.name for one in BENCHMARKS.values() if group in (one.group, "overall")}
    differs = []
    if set(names) != wanted:
        differs.append("other benchmarks")
    if recipe.get("data", {}).get("name") == "digits":
        differs.append("the embedded data")
    if study.get("subset"):
        differs.append(f"{study['subset']} examples of each benchmark")
    if not str(recipe.get("llm", "")).endswith(LANGUAGE_MODEL):
        differs.append(f"language model {recipe.get('llm', 'not recorded')}")
    return tuple(differs)
