"""Score against the token budget: one curve a backbone through its arms, and the front that no cheaper arm beats."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.costs import Budget, frontier
from eyeswap.report.analysis.study import GROUP_TITLES, Arm
from eyeswap.report.figures.drawing import WIDE, Plot, Rows, draw_interval, new_figure, set_log_ticks
from eyeswap.report.style import LIGHT, color, cost, marker, percent

COSTS = ("tokens", "flops", "seconds")


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure, if a backbone has arms with different numbers of visual tokens."""
    curves = _curves(analysis)
    if not any(len({arm.num_tokens for arm in arms}) > 1 for arms in curves.values()):
        return []
    known = [budget for budget in analysis.budgets if budget.key in COSTS and budget.values]
    groups = _groups(analysis)
    heads = [f"{GROUP_TITLES[group]}, %" for group in groups]
    rows: Rows = [["backbone", "arm", *heads, *(budget.title for budget in known)]]
    for backbone, arms in curves.items():
        for arm in arms:
            scores = [percent(arm.scores.averages[group].value) for group in groups]
            values = [(budget.key, budget.values.get(arm.name)) for budget in known]
            texts = ["not known" if value is None else cost(key, value) for key, value in values]
            rows.append([backbone, arm.name, *scores, *texts])
    missing = [budget.note for budget in analysis.budgets if budget.key in COSTS and not budget.values and budget.note]
    return [
        Plot(
            "token-budget", "Scores against the visual tokens of an image, and what they cost",
            "One mark an arm with its 95% interval; a backbone's curve joins its best arm at each number of tokens. "
            "The stepped line joins the arms that none of the same or a smaller cost beats. Tokens are those that the "
            "LLM sees, behind the connector. Costs are on logarithmic axes."
            f"{''.join(f' Not drawn: {note}.' for note in missing)}",
            draw, rows,
        )
    ]  # fmt: skip


def draw(analysis: Analysis, width: float) -> Figure:
    """Draw a row an average and a column a cost that is known and differs; a narrow figure has the first cost only."""
    shown = [budget for budget in analysis.budgets if budget.key in COSTS and not budget.equal]
    shown = shown if width >= WIDE else shown[:1]
    curves, groups = _curves(analysis), _groups(analysis)
    figure = new_figure(width, 2.6 * len(groups) + 0.5)
    for row, group in enumerate(groups):
        for column, budget in enumerate(shown):
            axes = figure.add_subplot(len(groups), len(shown), row * len(shown) + column + 1)
            _panel(axes, budget, curves, group)
            if row == len(groups) - 1:
                axes.set_xlabel(budget.title)
            if column == 0:
                axes.set_title(f"{GROUP_TITLES[group]}, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    in_row = 4 if width >= WIDE else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=in_row, frameon=False, fontsize=8.5)
    return figure


def _panel(axes: Any, budget: Budget, curves: dict[str, list[Arm]], group: str) -> None:
    arms = [arm for some in curves.values() for arm in some if arm.name in budget.values]
    scores = {arm.name: arm.scores.averages[group].value for arm in arms}
    costs = {arm.name: budget.values[arm.name] for arm in arms}
    low, high = min(costs.values()) / 1.25, max(costs.values()) * 1.25
    front = frontier(costs, scores)
    steps = [(costs[name], scores[name]) for name in front] + [(high, scores[front[-1]])]
    axes.step(
        *zip(*steps, strict=True), where="post", color=LIGHT["muted"], linewidth=1.2, zorder=1, label="best so far"
    )
    for index, (backbone, some) in enumerate(curves.items()):
        places = {arm.name: (costs[arm.name], scores[arm.name]) for arm in some if arm.name in costs}
        best = [max(same, key=scores.__getitem__) for same in _by_tokens(some) if same[0] in places]
        style = {"color": color(index), "marker": marker(index), "markersize": 6}
        if places:
            axes.plot(*zip(*places.values(), strict=True), linestyle="none", **style)
            axes.plot(*zip(*(places[name] for name in best), strict=True), label=backbone, **style)
        for arm in some:
            if arm.name in costs:
                draw_interval(axes, costs[arm.name], arm.scores.averages[group], index)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    if budget.key == "tokens":
        counts = sorted(set(costs.values()))
        axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
        axes.minorticks_off()
    else:
        set_log_ticks(axes, low, high, lambda value: cost(budget.key, value).removesuffix("FLOPs"))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _groups(analysis: Analysis) -> list[str]:
    """Return the averages to show: all but the overall one, or that one alone."""
    return [group for group in analysis.results.groups if group != "overall"] or ["overall"]


def _by_tokens(arms: list[Arm]) -> list[list[str]]:
    """Return the names of a backbone's arms, grouped by their number of tokens, the fewest first."""
    counts = sorted({arm.num_tokens or 0 for arm in arms})
    return [[arm.name for arm in arms if arm.num_tokens == count] for count in counts]


def _curves(analysis: Analysis) -> dict[str, list[Arm]]:
    """Return the finished arms by their backbone, in the order of the study."""
    curves: dict[str, list[Arm]] = {}
    for arm in analysis.results.finished_arms:
        if arm.num_tokens:
            curves.setdefault(str(arm.backbone.name), []).append(arm)
    return curves
