"""Overall score against cost: against parameters by objective, and the Pareto front for every kind of cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.costs import Budget, frontier
from eyeswap.report.figures.drawing import (
    WIDE,
    Dot,
    Named,
    Plot,
    Rows,
    draw_baseline,
    draw_interval,
    indexed,
    name_dots,
    new_figure,
    set_log_ticks,
    set_size_axis,
)
from eyeswap.report.style import LIGHT, color, cost, listed, percent, size
from eyeswap.results.published import PublishedResult

SHAPES = {"classification": "o", "detection": "s", "segmentation": "^", "other": "D"}
MAX_MARK, MIN_MARK = 15.0, 5.0  # diameter, points


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figures for which costs are known."""
    plots_with_data = []
    if any(arm.num_parameters for arm in analysis.results.finished_arms):
        plots_with_data.append(_size_plot(analysis))
    if any(not budget.equal for budget in analysis.budgets):
        plots_with_data.append(_budget_plot(analysis))
    return plots_with_data


def _size_plot(analysis: Analysis) -> Plot:
    rows: Rows = [["arm", "objective", "parameters", "overall, %", "95% interval"]]
    for arm in analysis.results.finished_arms:
        score = arm.scores.averages["overall"]
        bounds = f"{percent(score.low)} to {percent(score.high)}"
        rows.append([arm.name, arm.objective, size(arm.num_parameters), percent(score.value), bounds])
    rows += [
        [f"{point.model} (published{', ' + point.status if point.status != 'ok' else ''})", point.objective,
         size(round(1e6 * point.parameters_m)), percent(point.overall), "not published"]
        for point in analysis.published_points
    ]  # fmt: skip
    hollow = (
        " Hollow marks are the published study's, at the parameters it draws (for detectors and segmentors those of "
        "the whole network); they have one seed and no intervals. It calls the crossed ones collapsed."
        if analysis.published_points
        else ""
    )
    return Plot(
        "size", "Overall score against backbone parameters, by objective",
        "Overall score with its 95% interval against the parameters of the backbone up to its tap (log scale). The "
        f"shape of a mark is the pretraining objective, its area the number of parameters.{hollow}",
        overall_against_size, rows,
    )  # fmt: skip


def overall_against_size(analysis: Analysis, width: float) -> Figure:
    """Draw the overall score against the parameters up to the tap, in the form of the paper's Figure 1."""
    arms = [(index, arm) for index, arm in indexed(analysis.results) if arm.num_parameters]
    published = analysis.published_points
    figure = new_figure(width, (4.4 if published else 3.4) if width >= WIDE else 3.4)
    axes = figure.add_subplot()
    sizes = [float(arm.num_parameters or 1) for _, arm in arms]
    biggest = max([*sizes, *(1e6 * point.parameters_m for point in published)])
    for point in published:
        x = 1e6 * point.parameters_m
        axes.plot(
            x, point.overall, SHAPES[point.objective], markersize=_across(x, biggest), markerfacecolor="none",
            markeredgecolor=LIGHT["muted"], markeredgewidth=1.1,
        )  # fmt: skip
        if point.status == "collapsed":
            axes.plot(x, point.overall, "x", color=LIGHT["muted"], markersize=5)
    for index, arm in arms:
        x, score = float(arm.num_parameters or 1), arm.scores.averages["overall"]
        draw_interval(axes, x, score, index)
        axes.plot(x, score.value, SHAPES[arm.objective], color=color(index), markersize=_across(x, biggest))
    draw_baseline(axes, arms[0][1].scores.averages["overall"].baseline)
    set_size_axis(axes, [*sizes, *(1e6 * point.parameters_m for point in published)])
    axes.set_xlabel("parameters of the backbone up to its tap (log scale)")
    axes.set_ylabel("overall score, %")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    _legend(axes, [arm.objective for _, arm in arms], published)
    dots = [
        Dot(analysis.labels[arm.name], x, score.value, score.low, score.high, _across(x, biggest))
        for x, (_, arm) in zip(sizes, arms, strict=True)
        for score in [arm.scores.averages["overall"]]
    ]
    for point in published:
        y, across = point.overall, _across(1e6 * point.parameters_m, biggest)
        dots.append(Dot(point.model, 1e6 * point.parameters_m, y, y, y, across, LIGHT["muted"]))
    name_dots(figure, [Named(axes, dots)])
    return figure


def budgets(analysis: Analysis, width: float) -> Figure:
    """Draw one panel per cost that differs between arms; the step line is the Pareto front."""
    shown = [budget for budget in analysis.budgets if not budget.equal]
    columns = min(2, len(shown)) if width >= WIDE else 1
    rows = math.ceil(len(shown) / columns)
    figure, panels = new_figure(width, rows * 2.7), []
    for position, budget in enumerate(shown):
        axes = figure.add_subplot(rows, columns, position + 1)
        panels.append(_panel(axes, analysis, budget))
        if position % columns == 0:
            axes.set_ylabel("overall score, %")
    name_dots(figure, panels)
    return figure


def _panel(axes: Any, analysis: Analysis, budget: Budget) -> Named:
    arms = [(index, arm) for index, arm in indexed(analysis.results) if arm.name in budget.values]
    scores = {arm.name: arm.scores.averages["overall"].value for _, arm in arms}
    low, high = min(budget.values.values()) / 1.25, max(budget.values.values()) * 1.6
    front = frontier(budget.values, scores)
    steps = [(budget.values[name], scores[name]) for name in front] + [(high, scores[front[-1]])]
    axes.step(*zip(*steps, strict=True), where="post", color=LIGHT["muted"], linewidth=1.2, zorder=1)
    for index, arm in arms:
        score = arm.scores.averages["overall"]
        draw_interval(axes, budget.values[arm.name], score, index)
        face = color(index) if arm.name in front else LIGHT["paper"]
        axes.plot(
            budget.values[arm.name], score.value, "o", markersize=7, markerfacecolor=face,
            markeredgecolor=color(index), markeredgewidth=1.6,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    set_log_ticks(axes, low, high, lambda value: cost(budget.key, value).removesuffix("FLOPs"))
    axes.set_title(f"{budget.title[0].upper()}{budget.title[1:]}")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    dots = [
        Dot(analysis.labels[arm.name], budget.values[arm.name], score.value, score.low, score.high)
        for _, arm in sorted(arms, key=lambda item: item[1].name not in front)  # arms on the front get names first
        for score in [arm.scores.averages["overall"]]
    ]
    level = [(x, y, x_after, y) for (x, y), (x_after, _) in pairwise(steps)]
    upright = [(x_after, y, x_after, after) for (_, y), (x_after, after) in pairwise(steps)]
    return Named(axes, dots, [*level, *upright])


def _budget_plot(analysis: Analysis) -> Plot:
    known = {budget.title: budget for budget in analysis.budgets}
    rows: Rows = [["arm", "overall, %", *known]]
    for arm in analysis.results.finished_arms:
        values = [(budget.key, budget.values.get(arm.name)) for budget in known.values()]
        texts = [cost(key, value) if value is not None else "unknown" for key, value in values]
        rows.append([arm.name, percent(arm.scores.averages["overall"].value), *texts])
    return Plot(
        "budgets", "Overall score against each kind of cost",
        f"Filled marks on the line are the best at their budget: no arm with the same or a lower cost scores higher. "
        f"Costs are on logarithmic axes. {_budget_notes(analysis.budgets)}",
        budgets, rows,
    )  # fmt: skip


def _budget_notes(known: Sequence[Budget]) -> str:
    equal = [f"{budget.title} ({cost(budget.key, next(iter(budget.values.values())))})" for budget in known
             if budget.equal and budget.values]  # fmt: skip
    notes = [f"Equal in all arms: {listed(equal)}."] if equal else []
    notes += [f"{budget.title[0].upper()}{budget.title[1:]}: {budget.note}." for budget in known if budget.note]
    return " ".join(notes)


def _across(parameters: float, biggest: float) -> float:
    """Return the diameter of a mark whose area is proportional to the parameters."""
    return max(MIN_MARK, MAX_MARK * math.sqrt(parameters / biggest))


def _legend(axes: Any, objectives: Sequence[str], published: Sequence[PublishedResult]) -> None:
    kinds = [kind for kind in SHAPES if kind in {*objectives, *(point.objective for point in published)}]
    marks = [Line2D([], [], marker=SHAPES[kind], color=LIGHT["muted"], linestyle="", label=kind) for kind in kinds]
    if published:
        marks.append(
            Line2D([], [], marker="o", color=LIGHT["muted"], markerfacecolor="none", linestyle="", label="published")
        )
    if len(marks) > 1:
        axes.legend(
            handles=marks, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(marks), fontsize=8,
            labelcolor=LIGHT["muted"], handletextpad=0.1, borderaxespad=0,
        )  # fmt: skip
