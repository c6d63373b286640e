"""The picture of `eyeswap profile`: vision, time to the first token, decoding and memory against resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from eyeswap.files import atomic_path
from eyeswap.report.style import LIGHT, RC, color, marker
from eyeswap.study.profile import Cell

PANELS = (
    ("vision_s", "Vision, ms", 1e3),
    ("end_to_end_s", "Time to the first token, ms", 1e3),
    ("decode_s", "One more token, ms", 1e3),
    ("peak_bytes", "Peak memory, GiB", 2**-30),
)


def draw_profile(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Draw four panels, one line a backbone, and write them as PNG or SVG, by the path's ending."""
    with mpl.rc_context(RC | {"savefig.facecolor": LIGHT["paper"]}):
        figure = Figure(figsize=(10.5, 7.2), layout="constrained")
        names = list(dict.fromkeys(cell.backbone for cell in cells))
        for axes, (field, label, factor) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            for index, name in enumerate(names):
                places = [
                    (cell.side_px, getattr(cell, field) * factor)
                    for cell in cells
                    if cell.backbone == name and getattr(cell, field) is not None
                ]
                if places:
                    axes.plot(*zip(*places, strict=True), color=color(index), marker=marker(index), label=name, ms=4)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(sorted({cell.side_px for cell in cells}))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis="x", labelrotation=45)
            axes.yaxis.set_major_formatter(plain := FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(plain)
            axes.set_title(label, loc="left")
            axes.set_xlabel("side of the square image, px")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)
