"""Latency and memory against resolution, in the form of the paper's Figure 4."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from eyeswap.files import atomic_path
from eyeswap.planning.profile import Cell
from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.figures.drawing import WIDE, Plot, Rows, indexed
from eyeswap.report.style import LIGHT, NUM_COLORS, RC, color, marker

PANELS = (
    ("vision_s", "Vision, ms", 1e3),
    ("end_to_end_s", "Time to the first token, ms", 1e3),
    ("decode_s", "One more token, ms", 1e3),
    ("peak_bytes", "Peak memory, GiB", 2**-30),
)
MAX_TICKS = 7
MIN_RANGE = 5.0  # smallest ratio of the ends of a vertical axis


def draw_profile(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Draw four panels with one line per backbone, and write them as PNG or SVG, according to the path's suffix."""
    with mpl.rc_context(RC | {"savefig.facecolor": LIGHT["paper"]}):
        figure = profile_figure(cells, 10.5, columns=2)
        figure.suptitle(title, x=0.01, ha="left")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)


def profile_figure(
    cells: Sequence[Cell], width: float, columns: int, indices: Mapping[str, int] | None = None
) -> Figure:
    """Draw the four panels; both axes are logarithmic.

    Args:
        cells: the measurements.
        width: width of the figure, inches.
        columns: number of columns of panels.
        indices: backbone to the index of its colour and marker; by default in the order of the cells.
    """
    names = list(dict.fromkeys(cell.backbone for cell in cells))
    first = {cell.backbone: cell.connector for cell in reversed(cells)}  # only one of several connectors is drawn
    indices = indices or {name: index for index, name in enumerate(names)}
    rows, in_legend = math.ceil(len(PANELS) / columns), 5 if columns > 1 else 2
    height = rows * (3.2 if columns > 1 else 2.5) + 0.22 * math.ceil(len(names) / in_legend)
    figure = Figure(figsize=(width, height), layout="constrained")
    sides = sorted({cell.side_px for cell in cells})
    every = math.ceil(len(sides) / MAX_TICKS)
    for position, (field, label, factor) in enumerate(PANELS):
        axes = figure.add_subplot(rows, columns, position + 1)
        for name in names:
            points = [
                (cell.side_px, getattr(cell, field) * factor)
                for cell in cells
                if (cell.backbone, cell.connector) == (name, first[name]) and getattr(cell, field) is not None
            ]
            if points:
                style = "-" if indices[name] < NUM_COLORS else "--"
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=color(indices[name]),
                    marker=marker(indices[name]),
                    label=name,
                    ms=4,
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sides[::every])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_ylim()
        if high / low < MIN_RANGE:  # small differences would look large, and no round number would lie on the axis
            middle = math.sqrt(low * high)
            axes.set_ylim(middle / math.sqrt(MIN_RANGE), middle * math.sqrt(MIN_RANGE))
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if high / low > 100 else (1, 1.5, 2, 3, 5, 7), numticks=12)
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(label, loc="left")
        axes.set_xlabel("side of the square image, px")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=in_legend, frameon=False, fontsize=8)
    return figure


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure, if the study's folder contains a profile."""
    if not analysis.profile:
        return []
    heads = ["vision, ms", "to the first token, ms", "one more token, ms", "peak, GiB", "why not"]
    rows: Rows = [["backbone", "side, px", "tokens", *heads]]
    for cell in analysis.profile:
        seconds = (cell.vision_s, cell.end_to_end_s, cell.decode_s)
        rows.append(
            [
                cell.title, str(cell.side_px), "" if cell.tokens is None else str(cell.tokens),
                *("" if value is None else f"{1e3 * value:.3g}" for value in seconds),
                "" if cell.peak_bytes is None else f"{cell.peak_bytes / 2**30:.3g}", cell.problem,
            ]
        )  # fmt: skip
    return [
        Plot(
            "stages", "Latency of vision, first token and decoding, and peak memory, against image resolution",
            "Measured by `eyeswap profile` at batch size 1 on the machine named in its file; axes are logarithmic. "
            "Lines end where a measurement failed or was skipped.",
            stages, rows,
        )
    ]  # fmt: skip


def stages(analysis: Analysis, width: float) -> Figure:
    """Draw four panels with one line per backbone, in the colour of its arm if it has one."""
    of_arms = {str(arm.backbone.name): index for index, arm in indexed(analysis.results)}
    names = dict.fromkeys(cell.backbone for cell in analysis.profile)
    others = [name for name in names if name not in of_arms]
    indices = of_arms | {name: len(analysis.results.arms) + number for number, name in enumerate(others)}
    return profile_figure(analysis.profile, width, 2 if width >= WIDE else 1, indices)
