"""Scores with intervals: the weighted averages, and every benchmark."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.report.figures.drawing import (
    DASHED,
    WIDE,
    Plot,
    Rows,
    indexed,
    new_figure,
    set_percent_limits,
    set_rows,
)
from eyeswap.report.style import LIGHT, color, marker, percent
from eyeswap.results.scores import Score

HEAD = ["arm", "score, %", "95% interval", "trivial baseline"]


def plots(analysis: Analysis) -> list[Plot]:
    """Return both figures."""
    results = analysis.results
    of_groups: Rows = [["average", *HEAD]]
    of_benchmarks: Rows = [["benchmark", *HEAD]]
    for arm in results.finished_arms:
        of_groups += [[GROUP_TITLES[group], *_row(arm.name, arm.scores.averages[group])] for group in results.groups]
        of_benchmarks += [[entry.title, *_row(arm.name, entry.score)] for entry in arm.scores.benchmarks.values()]
    return [
        Plot(
            "averages", "Weighted averages of all arms with 95% intervals",
            "Averages weighted by the number of questions. Bars are 95% intervals; the dashed line is the trivial "
            "baseline. The axes do not start at zero.",
            averages, of_groups,
        ),
        Plot(
            "benchmarks", "Score of every arm on every benchmark with 95% intervals",
            "Scores in percent. The thin line is the 95% interval, the dark tick the trivial baseline.",
            benchmarks, of_benchmarks,
        ),
    ]  # fmt: skip


def averages(analysis: Analysis, width: float) -> Figure:
    """Draw one row per arm and one panel per group: score, 95% interval, and the trivial baseline as a line."""
    arms, stacked = indexed(analysis.results), width < WIDE
    groups = [group for group in ("vqa", "localization", "overall") if group in analysis.results.groups]
    if stacked or len(groups) == 2:  # with a single group, overall is the same
        groups = groups[:-1]
    rows, columns = (len(groups), 1) if stacked else (1, len(groups))
    figure = new_figure(width, rows * (0.32 * len(arms) + 0.75))
    for position, group in enumerate(groups):
        axes = figure.add_subplot(rows, columns, position + 1)
        scores = [arm.scores.averages[group] for _, arm in arms]
        for row, ((index, _), score) in enumerate(zip(arms, scores, strict=True)):
            _dot(axes, index, score, row)
        axes.axvline(scores[0].baseline, color=LIGHT["muted"], linewidth=1.1, linestyle=DASHED)
        axes.set_title(f"{GROUP_TITLES[group]}, %", pad=10)
        set_rows(axes, [analysis.labels[arm.name] for _, arm in arms] if stacked or position == 0 else [], len(arms))
        set_percent_limits(axes, scores)
        _baseline_label(axes, scores)
    return figure


def benchmarks(analysis: Analysis, width: float) -> Figure:
    """Draw one small panel per benchmark: bars with 95% intervals, the trivial baseline as a dark tick."""
    arms, listed = indexed(analysis.results), analysis.results.benchmarks
    columns = min(3, len(listed)) if width >= WIDE else 1
    rows = math.ceil(len(listed) / columns)
    figure = new_figure(width, rows * (0.24 * len(arms) + 0.66))
    for position, benchmark in enumerate(listed):
        axes = figure.add_subplot(rows, columns, position + 1)
        for row, (index, arm) in enumerate(arms):
            score = arm.scores.benchmarks[benchmark.name].score
            axes.barh(row, score.value, height=0.62, color=color(index), alpha=0.9, linewidth=0)
            axes.plot([score.low, score.high], [row, row], color=LIGHT["ink"], linewidth=1.2, solid_capstyle="butt")
            baseline = [score.baseline, score.baseline]
            axes.plot(baseline, [row - 0.44, row + 0.44], color=LIGHT["paper"], linewidth=3.6)
            axes.plot(baseline, [row - 0.44, row + 0.44], color=LIGHT["ink"], linewidth=1.6)
        axes.set_title(benchmark.title)
        axes.set_title(f"n = {benchmark.score.n:,}", loc="right", color=LIGHT["muted"], fontsize=8, weight="normal")
        set_rows(axes, [analysis.labels[arm.name] for _, arm in arms] if position % columns == 0 else [], len(arms))
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
    return figure


def _row(arm: str, score: Score) -> list[str]:
    return [arm, percent(score.value), f"{percent(score.low)} to {percent(score.high)}", percent(score.baseline)]


def _dot(axes: Any, index: int, score: Score, row: int) -> None:
    axes.plot([score.low, score.high], [row, row], color=color(index), linewidth=2.2, solid_capstyle="butt")
    axes.plot(score.value, row, marker(index), color=color(index), markersize=7)
    axes.annotate(percent(score.value), (score.value, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)


def _baseline_label(axes: Any, scores: list[Score]) -> None:
    """Write "baseline" at the foot of its line, on the side that has more room."""
    left, right = axes.get_xlim()
    in_left_half = scores[0].baseline < (left + right) / 2
    axes.annotate(
        "baseline", (scores[0].baseline, 0), (4 if in_left_half else -4, 4),
        xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7.5,
        ha="left" if in_left_half else "right", color=LIGHT["muted"],
    )  # fmt: skip
