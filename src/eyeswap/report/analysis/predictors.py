"""Does a number known beforehand predict the VLM score? ImageNet accuracy and parameters against each average.

The arms are what is drawn by chance here, so a study of few arms can show little; every answer says how many there
were, and what is the least p-value that so many could have reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyeswap.report.analysis.study import StudyResults
from eyeswap.report.style import listed, percent
from eyeswap.results.published import FAR_BELOW, IMAGENET, published_accuracy
from eyeswap.statistics.correlation import METHODS, Correlation, correlate


@dataclass(frozen=True)
class Predictor:
    """A number known of arms before a VLM is trained, and how it goes with each average.

    Attributes:
        key: ``accuracy`` or ``parameters``.
        title: what the number is.
        values: arm to number; arms without one are left out.
        correlations: average (``vqa``, ``localization``, ``overall``) to Spearman's and Kendall's correlation.
    """

    key: str
    title: str
    values: dict[str, float]
    correlations: dict[str, list[Correlation]]


def predictors(results: StudyResults) -> list[Predictor]:
    """Return what is known of the finished arms beforehand, and how it goes with their scores."""
    arms = results.finished_arms
    accuracy = {arm.name: found for arm in arms if (found := published_accuracy(str(arm.backbone.name)))}
    kinds = [kind for kind, _ in accuracy.values()]
    title = max(set(kinds), key=kinds.count, default=IMAGENET)  # unlike accuracies cannot be set side by side
    known = {name: value for name, (kind, value) in accuracy.items() if kind == title}
    sizes = {arm.name: float(arm.num_parameters) for arm in arms if arm.num_parameters}
    return [
        Predictor("accuracy", title, known, _correlations(results, known)),
        Predictor("parameters", "parameters of the backbone", sizes, _correlations(results, sizes)),
    ]


def weak_weights(known: Sequence[Predictor]) -> list[str]:
    """Return a caveat if frozen weights of some arms classify far worse than the best: a confound of any comparison."""
    accuracy = next((one for one in known if one.key == "accuracy" and one.values), None)
    if accuracy is None:
        return []
    best = max(accuracy.values.values())
    weak = [f"**{name}** ({percent(top1)}%)" for name, top1 in accuracy.values.items() if top1 < best - FAR_BELOW]
    if not weak:
        return []
    return [
        f"The frozen weights of {listed(weak)} classify far worse than the best ({percent(best)}%, {accuracy.title}): "
        "how well an arm was pretrained is confounded with what it is."
    ]


def _correlations(results: StudyResults, values: dict[str, float]) -> dict[str, list[Correlation]]:
    scores = {arm.name: arm.scores.averages for arm in results.finished_arms if arm.name in values}
    x = [values[name] for name in scores]
    return {
        group: [correlate(x, [own[group].value for own in scores.values()], method) for method in METHODS]
        for group in results.groups
    }
