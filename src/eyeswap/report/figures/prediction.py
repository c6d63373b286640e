"""Scatter plots of VLM scores against pretraining accuracy: one dot per arm, one panel per average."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.predictors import Predictor
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.report.figures.drawing import WIDE, Dot, Named, Plot, Rows, draw_interval, indexed, name_dots, new_figure
from eyeswap.report.style import LIGHT, MINUS, color, marker, percent

MIN_ARMS = 2


def plots(analysis: Analysis) -> list[Plot]:
    """Return the scatter plot, if the accuracies of at least two arms are known."""
    accuracy = _accuracy(analysis)
    if accuracy is None or len(accuracy.values) < MIN_ARMS:
        return []
    rows: Rows = [["arm", f"{accuracy.title}, %", *(f"{GROUP_TITLES[group]}, %" for group in analysis.results.groups)]]
    for arm in analysis.results.finished_arms:
        if arm.name in accuracy.values:
            scores = [percent(arm.scores.averages[group].value) for group in analysis.results.groups]
            rows.append([arm.name, percent(accuracy.values[arm.name]), *scores])
    return [
        Plot(
            "accuracy", f"VLM scores against {accuracy.title}",
            f"One dot per arm, with the 95% interval of its score, against the {accuracy.title} reported by the "
            "backbone's authors. Above each panel: Spearman's rank correlation over arms.",
            scatter, rows,
        )
    ]  # fmt: skip


def _accuracy(analysis: Analysis) -> Predictor | None:
    return next((predictor for predictor in analysis.predictors if predictor.key == "accuracy"), None)


def scatter(analysis: Analysis, width: float) -> Figure:
    """Draw one panel per average, with accuracy on the horizontal and score on the vertical axis."""
    accuracy = _accuracy(analysis)
    assert accuracy is not None  # else there is no such plot
    arms = [(index, arm) for index, arm in indexed(analysis.results) if arm.name in accuracy.values]
    groups = [group for group in ("vqa", "localization") if group in analysis.results.groups]
    rows, columns = (1, len(groups)) if width >= WIDE else (len(groups), 1)
    figure, panels = new_figure(width, rows * 3.0), []
    for position, group in enumerate(groups):
        axes = figure.add_subplot(rows, columns, position + 1)
        dots = []
        for index, arm in arms:
            x, score = accuracy.values[arm.name], arm.scores.averages[group]
            draw_interval(axes, x, score, index)
            axes.plot(x, score.value, marker(index), color=color(index), markersize=7)
            dots.append(Dot(analysis.labels[arm.name], x, score.value, score.low, score.high))
        spearman = accuracy.correlations[group][0]
        rho = (
            ""
            if spearman.value is None
            else f"rank correlation {spearman.value:+.2f}, {len(arms)} arms".replace("-", MINUS)
        )
        axes.set_title(f"{GROUP_TITLES[group]}, %")
        axes.set_title(rho, loc="right", color=LIGHT["muted"], fontsize=8, weight="normal")
        axes.set_xlabel(f"{accuracy.title}, %")
        axes.margins(x=0.14, y=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        panels.append(Named(axes, dots))
    name_dots(figure, panels)
    return figure
