"""Does accuracy on ImageNet, or size, predict the VLM score? One dot an arm, one panel an average."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.report.figures.drawing import WIDE, Dot, Named, Plot, Rows, draw_interval, indexed, name_dots, new_figure
from eyeswap.report.style import LIGHT, MINUS, color, marker, percent

FEWEST = 2  # arms; a single dot predicts nothing


def plots(analysis: Analysis) -> list[Plot]:
    """Return the scatter of accuracy, if at least two arms have one."""
    found = next((one for one in analysis.predictors if one.key == "accuracy"), None)
    if found is None or len(found.values) < FEWEST:
        return []
    rows: Rows = [["arm", f"{found.title}, %", *(f"{GROUP_TITLES[group]}, %" for group in analysis.results.groups)]]
    for arm in analysis.results.finished_arms:
        if arm.name in found.values:
            scores = [percent(arm.scores.averages[group].value) for group in analysis.results.groups]
            rows.append([arm.name, percent(found.values[arm.name]), *scores])
    return [
        Plot(
            "accuracy", f"VLM scores against {found.title}",
            f"One dot an arm, with the 95% interval of its score, over the {found.title} that the backbone's authors "
            "report. Above each panel Spearman's rank correlation over arms.",
            scatter, rows,
        )
    ]  # fmt: skip


def scatter(analysis: Analysis, width: float) -> Figure:
    """Draw one panel an average, accuracy across and score upwards."""
    found = next(one for one in analysis.predictors if one.key == "accuracy")
    arms = [(index, arm) for index, arm in indexed(analysis.results) if arm.name in found.values]
    groups = [group for group in ("vqa", "localization") if group in analysis.results.groups]
    rows, columns = (1, len(groups)) if width >= WIDE else (len(groups), 1)
    figure, panels = new_figure(width, rows * 3.0), []
    for position, group in enumerate(groups):
        axes = figure.add_subplot(rows, columns, position + 1)
        dots = []
        for index, arm in arms:
            x, score = found.values[arm.name], arm.scores.averages[group]
            draw_interval(axes, x, score, index)
            axes.plot(x, score.value, marker(index), color=color(index), markersize=7)
            dots.append(Dot(analysis.labels[arm.name], x, score.value, score.low, score.high))
        spearman = found.correlations[group][0]
        rho = (
            ""
            if spearman.value is None
            else f"rank correlation {spearman.value:+.2f}, {len(arms)} arms".replace("-", MINUS)
        )
        axes.set_title(f"{GROUP_TITLES[group]}, %")
        axes.set_title(rho, loc="right", color=LIGHT["muted"], fontsize=8, weight="normal")
        axes.set_xlabel(f"{found.title}, %")
        axes.margins(x=0.14, y=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        panels.append(Named(axes, dots))
    name_dots(figure, panels)
    return figure
