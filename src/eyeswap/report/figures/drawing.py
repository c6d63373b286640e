"""Shared code of the figures: inline SVG that follows the page's theme, axes, and labels that avoid overlaps.

A figure is a function of the analysis and a width in inches that returns a matplotlib figure. Pyplot is not used, so
that no figure stays in memory.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.report.style import LIGHT, RC, color, size, themed
from eyeswap.results.scores import Score

WIDE, NARROW = 9.4, 3.6  # inches; the page shows one or the other
DASHED = (0, (4, 3))

Draw = Callable[[Analysis, float], Figure]
Rows = list[list[str]]
Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Plot:
    """A figure with its title, caption and data, which also serve readers who cannot see it.

    Attributes:
        name: for ids and file names.
        title: what it shows, for screen readers.
        caption: how to read it.
        draw: the function that draws it.
        data: its numbers as a table; the first row is the head.
    """

    name: str
    title: str
    caption: str
    draw: Draw
    data: Rows


def svg(plot: Plot, analysis: Analysis, width: float, name: str) -> str:
    """Draw a figure and return it as one ``<svg>`` element whose accessible name is the plot's title."""
    with mpl.rc_context(RC):
        figure = plot.draw(analysis, width)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>\s*", "", markup, flags=re.DOTALL)
    markup = re.sub(r"<!--.*?-->\s*", "", markup, flags=re.DOTALL)
    markup = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", markup)  # ids must be unique in the page
    markup = re.sub(r"<style.*?</style>\s*", "", markup, count=1, flags=re.DOTALL)  # it would apply to the whole page
    box = re.search(r'viewBox="[^"]*"', markup)
    head = f'<svg role="img" aria-label="{plot.title}" {box.group() if box else ""}>'
    return themed(head + markup[markup.index(">") + 1 :])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with constrained layout."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, wspace=0.07, hspace=0.03)
    return figure


def indexed(results: StudyResults) -> list[tuple[int, Arm]]:
    """Return the finished arms with their position in the study, which determines their colour."""
    return [(index, arm) for index, arm in enumerate(results.arms) if arm.finished]


def set_rows(axes: Any, names: list[str], num_rows: int) -> None:
    """Set up horizontal rows from top to bottom, with names if there are any."""
    axes.set_ylim(num_rows - 0.4, -0.7)
    axes.set_yticks(range(num_rows), names or [""] * num_rows)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def set_percent_limits(axes: Any, scores: Sequence[Score]) -> None:
    """Fit the horizontal axis to the intervals and the baseline."""
    low = min(min(score.low, score.baseline) for score in scores)
    high = max(max(score.high, score.baseline) for score in scores)
    margin = max(0.08 * (high - low), 1.0)
    axes.set_xlim(max(low - margin, -2), min(high + margin, 102))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def draw_interval(axes: Any, x: float, score: Score, index: int) -> None:
    """Draw the 95% interval of a score as a vertical line."""
    axes.plot([x, x], [score.low, score.high], color=color(index), linewidth=1.6, solid_capstyle="butt", alpha=0.75)


def draw_baseline(axes: Any, baseline: float) -> None:
    """Draw the trivial baseline as a labelled horizontal line."""
    axes.axhline(baseline, color=LIGHT["muted"], linewidth=1.1, linestyle=DASHED)
    axes.annotate(
        "trivial baseline", (0, baseline), (2, 4), xycoords=("axes fraction", "data"), fontsize=8,
        textcoords="offset points", color=LIGHT["muted"],
    )  # fmt: skip


@dataclass(frozen=True)
class Dot:
    """A mark with a name to be written beside it.

    Attributes:
        name: the name.
        x: horizontal position, in data coordinates.
        y: vertical position, in data coordinates.
        low: lower end of the interval through the mark; ``y`` if there is none.
        high: upper end.
        across: width of the mark, points.
        color: colour of the name.
    """

    name: str
    x: float
    y: float
    low: float
    high: float
    across: float = 7.0
    color: str = LIGHT["ink"]


@dataclass(frozen=True)
class Named:
    """A panel with dots to be named; ``lines`` are horizontal or vertical lines that names must not cross."""

    axes: Any
    dots: Sequence[Dot]
    lines: Sequence[Box] = ()


def name_dots(figure: Figure, panels: Sequence[Named]) -> None:
    """Write each name beside its dot, at the first position free of marks, intervals, lines and other names.

    A name without a free position is omitted; the table below the figure has it.
    """
    figure.draw_without_rendering()  # computes the positions of the axes
    for panel in panels:
        _name_dots(panel, figure.dpi / 72)


def _name_dots(panel: Named, pixels: float) -> None:
    """Name the dots of one panel; ``pixels`` is the number of pixels per point."""
    to_pixels = panel.axes.transData.transform
    em = 8.5 * pixels  # the font size; 0.6 em is the mean width of a character
    left, bottom, right, top = panel.axes.bbox.extents
    occupied: list[Box] = []
    for line in panel.lines:
        (x1, y1), (x2, y2) = to_pixels([line[:2], line[2:]])
        occupied.append((x1 - 2, y1 - 2, x2 + 2, y2 + 2))
    for dot in panel.dots:
        (x, y), (_, low), (_, high) = to_pixels([(dot.x, dot.y), (dot.x, dot.low), (dot.x, dot.high)])
        half = dot.across * pixels / 2 + 1
        occupied += [(x - half, y - half, x + half, y + half), (x - 2, low, x + 2, high)]
    for dot in panel.dots:
        x, y = to_pixels((dot.x, dot.y))
        for side, dx, dy in _name_positions(dot):
            start = x + dx * pixels - (0.6 * em * len(dot.name) if side == "right" else 0)
            box = (start, y + dy * pixels - em / 2, start + 0.6 * em * len(dot.name), y + dy * pixels + em / 2)
            inside = left <= box[0] and box[2] <= right + 2 * em and bottom <= box[1] and box[3] <= top + em
            if inside and not any(_overlap(box, other) for other in occupied):
                occupied.append(box)
                panel.axes.annotate(
                    dot.name, (dot.x, dot.y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=8.5,
                    color=dot.color,
                )  # fmt: skip
                break


def _name_positions(dot: Dot) -> list[tuple[str, float, float]]:
    """Return the candidate positions of a name: alignment, and offset from the dot in points."""
    away, up = dot.across / 2 + 5, dot.across / 2 + 7
    beside = [("left", away, 0.0), ("right", -away, 0.0)]
    return [*beside, ("left", 5.0, up), ("left", 5.0, -up), ("right", -5.0, up), ("right", -5.0, -up)]


def set_size_axis(axes: Any, sizes: Sequence[float]) -> None:
    """Set up a log axis of parameters with labels at 1, 2 and 5 of every decade, and room for names on the right."""
    low, high = min(sizes) / 1.35, max(sizes) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    set_log_ticks(axes, low, high, lambda value: size(round(value)))


def set_log_ticks(axes: Any, low: float, high: float, write: Callable[[float], str]) -> None:
    """Label a horizontal log axis at 1, 2 and 5 of every decade, or at even steps if its range is small."""
    if high / low < 6:
        ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 300 else (1,)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axes.minorticks_off()


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
