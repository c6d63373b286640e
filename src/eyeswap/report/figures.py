"""The figures of a report, each drawn for a wide page and for a phone, as inline SVG that follows the theme.

Every figure is a function of the results and of a width in inches that returns a matplotlib figure; `svg`
turns it into markup. Nothing here goes through pyplot, so no figure stays in memory.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eyeswap.files import atomic_path
from eyeswap.report.gather import GROUP_TITLES, Arm, Run, Score, StudyResults
from eyeswap.report.style import LIGHT, RC, color, marker, percent, size, themed

WIDE, NARROW = 9.4, 3.6  # inches; the page shows one or the other
LOSS_POINTS = 240

Draw = Callable[[StudyResults, float], Figure]


def svg(draw: Draw, results: StudyResults, width: float, name: str, title: str) -> str:
    """Draw a figure and return it as one ``<svg>`` element that a screen reader calls ``title``."""
    with mpl.rc_context(RC):
        figure = draw(results, width)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>\s*", "", markup, flags=re.DOTALL)
    markup = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", markup)  # ids are unique in the page
    markup = re.sub(r"<style.*?</style>\s*", "", markup, count=1, flags=re.DOTALL)  # it would reach the whole page
    box = re.search(r'viewBox="[^"]*"', markup)
    head = f'<svg role="img" aria-label="{title}" {box.group() if box else ""}>'
    return themed(head + markup[markup.index(">") + 1 :])


def study_picture(results: StudyResults, path: Path, width: float = WIDE) -> Path:
    """Draw the averages of all arms with their intervals as a PNG, for a README; return the path."""
    with mpl.rc_context(RC | {"savefig.facecolor": LIGHT["paper"]}):
        figure = averages(results, width)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
    return path


def averages(results: StudyResults, width: float) -> Figure:
    """Draw one row an arm and one panel a group: score, 95% interval, and the trivial baseline as a tick."""
    arms, groups = _indexed(results), [group for group in results.groups if group != "overall"]
    groups = groups if width < WIDE else [*groups, "overall"]
    stacked = width < WIDE
    rows, columns = (len(groups), 1) if stacked else (1, len(groups))
    row_height = 0.32 * len(arms) + 0.75
    figure = _figure(width, rows * row_height)
    for position, group in enumerate(groups):
        axes = figure.add_subplot(rows, columns, position + 1)
        scores = [arm.scores.averages[group] for _, arm in arms]
        for row, ((index, _), score) in enumerate(zip(arms, scores, strict=True)):
            _dot(axes, index, score, row)
        axes.axvline(scores[0].baseline, color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_title(f"{GROUP_TITLES[group]}, %", pad=10)
        _rows(axes, [arm.name for _, arm in arms] if stacked or position == 0 else [], len(arms))
        _percent_limits(axes, scores)
        _baseline_label(axes, scores)
    return figure


def benchmarks(results: StudyResults, width: float) -> Figure:
    """Draw one small panel a benchmark: bars with 95% intervals, the trivial baseline as a dark tick."""
    arms, listed = _indexed(results), results.benchmarks
    columns = 3 if width >= WIDE else 1
    rows = math.ceil(len(listed) / columns)
    figure = _figure(width, rows * (0.24 * len(arms) + 0.66))
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
        _rows(axes, [arm.name for _, arm in arms] if position % columns == 0 else [], len(arms))
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
    return figure


def overall_against_size(results: StudyResults, width: float) -> Figure:
    """Draw the overall score over the parameters up to the tap (log scale), names beside the dots."""
    arms = [(index, arm) for index, arm in _indexed(results) if arm.num_parameters]
    figure = _figure(width, 3.2 if width >= WIDE else 3.0)
    axes = figure.add_subplot()
    scores = [arm.scores.averages["overall"] for _, arm in arms]
    for (index, arm), score in zip(arms, scores, strict=True):
        x = float(arm.num_parameters or 1)
        axes.plot([x, x], [score.low, score.high], color=color(index), linewidth=1.6, solid_capstyle="butt")
        axes.plot(x, score.value, marker(index), color=color(index), markersize=8)
    if arms:
        _baseline_line(axes, scores)
        sizes = [float(arm.num_parameters or 1) for _, arm in arms]
        _size_axis(axes, sizes)
        places = [(x, score.value) for x, score in zip(sizes, scores, strict=True)]
        _name_dots(axes, figure, [arm.name for _, arm in arms], places)
    axes.set_xlabel("parameters of the backbone up to its tap (log scale)")
    axes.set_ylabel("overall score, %")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


def learning_curves(results: StudyResults, width: float) -> Figure:
    """Draw the training loss of every run over its steps: a running mean, the raw values faint behind it."""
    figure = _figure(width, 3.0)
    axes = figure.add_subplot()
    smooth_max = smooth_min = None
    for index, arm in _indexed(results):
        for number, run in enumerate(arm.runs):
            steps, losses, smooth = _curve(run)
            if not len(steps):
                continue
            axes.plot(steps, losses, color=color(index), linewidth=0.7, alpha=0.35)
            label = arm.name if number == 0 else None
            axes.plot(steps, smooth, color=color(index), linewidth=1.8, label=label)
            smooth_max = max(smooth_max or 0.0, float(smooth.max()))
            smooth_min = min(smooth_min or math.inf, float(smooth.min()))
    if smooth_max is not None and smooth_min is not None:
        margin = 0.06 * (smooth_max - smooth_min) or 0.1
        axes.set_ylim(smooth_min - 2 * margin, smooth_max + margin)
        axes.legend(frameon=False, loc="upper right", labelcolor=LIGHT["ink"])
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.margins(x=0.01)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, wspace=0.07, hspace=0.03)
    return figure


def _indexed(results: StudyResults) -> list[tuple[int, Arm]]:
    """Return the finished arms with their position in the study, which decides their colour."""
    return [(index, arm) for index, arm in enumerate(results.arms) if arm.finished]


def _dot(axes: Any, index: int, score: Score, row: int) -> None:
    axes.plot([score.low, score.high], [row, row], color=color(index), linewidth=2.2, solid_capstyle="butt")
    axes.plot(score.value, row, marker(index), color=color(index), markersize=7)
    axes.annotate(percent(score.value), (score.value, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)


def _rows(axes: Any, names: list[str], num_rows: int) -> None:
    """Set up horizontal rows from top to bottom with names where there are any."""
    axes.set_ylim(num_rows - 0.4, -0.7)
    axes.set_yticks(range(num_rows), names or [""] * num_rows)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _percent_limits(axes: Any, scores: list[Score]) -> None:
    low = min(min(score.low, score.baseline) for score in scores)
    high = max(max(score.high, score.baseline) for score in scores)
    margin = max(0.08 * (high - low), 1.0)
    axes.set_xlim(max(low - margin, -2), min(high + margin, 102))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _baseline_label(axes: Any, scores: list[Score]) -> None:
    """Write "baseline" at the foot of its line, on the side that has room."""
    left, right = axes.get_xlim()
    on_the_left_half = scores[0].baseline < (left + right) / 2
    axes.annotate(
        "baseline", (scores[0].baseline, 0), (4 if on_the_left_half else -4, 4),
        xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7.5,
        ha="left" if on_the_left_half else "right", color=LIGHT["muted"],
    )  # fmt: skip


def _baseline_line(axes: Any, scores: list[Score]) -> None:
    baseline = scores[0].baseline
    axes.axhline(baseline, color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        "trivial baseline", (0, baseline), (2, 4), xycoords=("axes fraction", "data"), fontsize=8,
        textcoords="offset points", color=LIGHT["muted"],
    )  # fmt: skip


def _name_dots(axes: Any, figure: Figure, names: list[str], places: list[tuple[float, float]]) -> None:
    """Write each name beside its dot: right, left, above or below, the first place that is still free."""
    figure.draw_without_rendering()  # so that the axes know where they are
    em = axes.xaxis.label.get_size() * figure.dpi / 72  # pixels
    dots = axes.transData.transform(places)
    taken = [(x - em / 2, y - em / 2, x + em / 2, y + em / 2) for x, y in dots]
    for name, place, (x, y) in zip(names, places, dots, strict=True):
        length = 0.62 * em * len(name)
        options = {
            ("left", 9, 0): (x + em, y - em / 2, x + em + length, y + em / 2),
            ("right", -9, 0): (x - em - length, y - em / 2, x - em, y + em / 2),
            ("left", 5, 11): (x + em / 2, y + 0.7 * em, x + em / 2 + length, y + 1.7 * em),
            ("left", 5, -11): (x + em / 2, y - 1.7 * em, x + em / 2 + length, y - 0.7 * em),
        }
        (side, dx, dy), box = next(
            (option for option in options.items() if not any(_overlap(option[1], other) for other in taken)),
            next(iter(options.items())),
        )
        taken.append(box)
        axes.annotate(name, place, (dx, dy), textcoords="offset points", ha=side, va="center", color=LIGHT["ink"])


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _size_axis(axes: Any, sizes: list[float]) -> None:
    """Use a log axis with a label at 1, 2 and 5 of every decade, and room for names on the right."""
    low, high = min(sizes) / 1.35, max(sizes) * 1.9
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(round(value))))
    axes.minorticks_off()


def _curve(run: Run) -> tuple[Any, Any, Any]:
    """Return steps, losses and their running mean, at most ``LOSS_POINTS`` of each."""
    steps = np.array([row["step"] for row in run.train], dtype=np.float64)
    losses = np.array([row["loss"] for row in run.train], dtype=np.float64)
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    window = max(1, len(losses) // 25)
    kernel = np.ones(window)
    smooth = np.convolve(losses, kernel, "same") / np.convolve(np.ones_like(losses), kernel, "same")
    last = max(len(losses) - 1, 0)
    keep = np.unique(np.linspace(0, last, LOSS_POINTS).astype(int))[: len(losses)]
    return steps[keep], losses[keep], smooth[keep]
