"""Predictors of VLM scores: rank correlations of ImageNet accuracy and parameter counts with each average.

Here the arms are the random sample, so that a study of few arms can show little; every result says how many there were,
and the smallest p-value that they could have reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyeswap.report.analysis.study import StudyResults
from eyeswap.report.style import listed, percent
from eyeswap.results.published import FAR_BELOW, IMAGENET, known_accuracy
from eyeswap.statistics.correlation import METHODS, Correlation, correlate


@dataclass(frozen=True)
class Predictor:
    """A property of the arms that is known before training, and its correlation with each average.

    Attributes:
        key: ``accuracy`` or ``parameters``.
        title: name of the property.
        values: arm to value; arms without one are left out.
        correlations: average (``vqa``, ``localization``, ``overall``) to Spearman's and Kendall's correlation.
    """

    key: str
    title: str
    values: dict[str, float]
    correlations: dict[str, list[Correlation]]


def predictors(results: StudyResults) -> list[Predictor]:
    """Return the predictors of the finished arms' scores."""
    arms = results.finished_arms
    accuracy = {arm.name: found for arm in arms if (found := known_accuracy(arm.runs[0].record))}
    kinds = [kind for kind, _ in accuracy.values()]
    title = max(set(kinds), key=kinds.count, default=IMAGENET)  # accuracies of different kinds are not comparable
    known = {name: value for name, (kind, value) in accuracy.items() if kind == title}
    sizes = {arm.name: float(arm.num_parameters) for arm in arms if arm.num_parameters}
    return [
        Predictor("accuracy", title, known, _correlations(results, known)),
        Predictor("parameters", "parameters of the backbone", sizes, _correlations(results, sizes)),
    ]


def weak_weights(known: Sequence[Predictor]) -> list[str]:
    """Return a caveat if the frozen weights of some arms classify far worse than the best, which is a confound."""
    accuracy = next((predictor for predictor in known if predictor.key == "accuracy" and predictor.values), None)
    if accuracy is None:
        return []
    best = max(accuracy.values.values())
    weak = [f"**{name}** ({percent(top1)}%)" for name, top1 in accuracy.values.items() if top1 < best - FAR_BELOW]
    if not weak:
        return []
    return [
        f"The frozen weights of {listed(weak)} classify far worse than the best ({percent(best)}%, {accuracy.title}): "
        "the quality of pretraining is confounded with the backbone."
    ]


def _correlations(results: StudyResults, values: dict[str, float]) -> dict[str, list[Correlation]]:
    scores = {arm.name: arm.scores.averages for arm in results.finished_arms if arm.name in values}
    x = [values[name] for name in scores]
    return {
        group: [correlate(x, [averages[group].value for averages in scores.values()], method) for method in METHODS]
        for group in results.groups
    }
