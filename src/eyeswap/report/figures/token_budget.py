"""Score against the token budget: one curve a backbone through its arms, and the front that no cheaper arm beats."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.costs import Budget, frontier
from eyeswap.report.analysis.study import Arm
from eyeswap.report.figures.drawing import WIDE, Plot, Rows, draw_interval, new_figure, set_log_ticks
from eyeswap.report.style import LIGHT, color, cost, marker, percent

COSTS = ("tokens", "flops", "seconds")


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure, if a backbone has arms with different numbers of visual tokens."""
    curves = _curves(analysis)
    if not any(len({arm.num_tokens for arm in arms}) > 1 for arms in curves.values()):
        return []
    known = [budget for budget in analysis.budgets if budget.key in COSTS and budget.values]
    rows: Rows = [["backbone", "arm", "overall, %", *(budget.title for budget in known)]]
    for backbone, arms in curves.items():
        for arm in arms:
            values = [(budget.key, budget.values.get(arm.name)) for budget in known]
            texts = ["not known" if value is None else cost(key, value) for key, value in values]
            rows.append([backbone, arm.name, percent(arm.scores.averages["overall"].value), *texts])
    missing = [budget.note for budget in analysis.budgets if budget.key in COSTS and not budget.values and budget.note]
    return [
        Plot(
            "token-budget", "Overall score against the visual tokens of an image, and what they cost",
            "One curve a backbone, one mark an arm with its 95% interval; the stepped line joins the arms that none "
            "of the same or a smaller cost beats. Tokens are those that the LLM sees, behind the connector. Costs are "
            f"on logarithmic axes.{''.join(f' Not drawn: {note}.' for note in missing)}",
            draw, rows,
        )
    ]  # fmt: skip


def draw(analysis: Analysis, width: float) -> Figure:
    """Draw one panel a cost that is known and differs between arms."""
    shown = [budget for budget in analysis.budgets if budget.key in COSTS and not budget.equal]
    columns = len(shown) if width >= WIDE else 1
    curves = _curves(analysis)
    figure = new_figure(width, 3.2 if columns > 1 else 2.7 * len(shown) + 0.3 * len(curves))
    for position, budget in enumerate(shown):
        axes = figure.add_subplot(len(shown) // columns, columns, position + 1)
        _panel(axes, budget, curves)
        if position % columns == 0:
            axes.set_ylabel("overall score, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    in_row = 4 if columns > 1 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=in_row, frameon=False, fontsize=8.5)
    return figure


def _panel(axes: Any, budget: Budget, curves: dict[str, list[Arm]]) -> None:
    arms = [arm for some in curves.values() for arm in some if arm.name in budget.values]
    scores = {arm.name: arm.scores.averages["overall"].value for arm in arms}
    costs = {arm.name: budget.values[arm.name] for arm in arms}
    low, high = min(costs.values()) / 1.25, max(costs.values()) * 1.25
    front = frontier(costs, scores)
    steps = [(costs[name], scores[name]) for name in front] + [(high, scores[front[-1]])]
    axes.step(
        *zip(*steps, strict=True), where="post", color=LIGHT["muted"], linewidth=1.2, zorder=1, label="best so far"
    )
    for index, (backbone, some) in enumerate(curves.items()):
        places = sorted((costs[arm.name], scores[arm.name]) for arm in some if arm.name in costs)
        if places:
            axes.plot(
                *zip(*places, strict=True), color=color(index), marker=marker(index), markersize=6, label=backbone
            )
        for arm in some:
            if arm.name in costs:
                draw_interval(axes, costs[arm.name], arm.scores.averages["overall"], index)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    set_log_ticks(axes, low, high, lambda value: cost(budget.key, value).removesuffix("FLOPs"))
    axes.set_title(f"{budget.title[0].upper()}{budget.title[1:]}")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _curves(analysis: Analysis) -> dict[str, list[Arm]]:
    """Return the finished arms by their backbone, in the order of the study."""
    curves: dict[str, list[Arm]] = {}
    for arm in analysis.results.finished_arms:
        if arm.num_tokens:
            curves.setdefault(str(arm.backbone.name), []).append(arm)
    return curves
