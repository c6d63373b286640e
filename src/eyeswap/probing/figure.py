"""The figure of a probe: what can be read out at each site on the way from the image to the answer, task by task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eyeswap.files import atomic_path
from eyeswap.probing.questions import TASKS, TITLES, Task

if TYPE_CHECKING:
    from eyeswap.probing.probe import ProbeResult

_COLOURS = {"linear": "#1f5fa8", "nonlinear": "#c2571a", "answer": "#222222"}
_LABELS = {"linear": "linear readout", "nonlinear": "nonlinear readout", "answer": "the VLM's answer"}
_MARKERS = {"linear": "o", "nonlinear": "s", "answer": "*"}


def draw(result: ProbeResult, path: Path) -> None:
    """Draw one panel a task: sites along the way against percent right, with intervals and chance."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10.5, 6.4), layout="constrained")
        for axes, task in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, TASKS, strict=True):
            _panel(axes, result, task)
        figure.supylabel("right answers, percent")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(f"{result.name}: what can be read out, {result.num_images:,} images of {result.source}")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def _panel(axes: Axes, result: ProbeResult, task: Task) -> None:
    sites = result.sites
    for readout in _COLOURS:
        readings = [reading for site in sites if (reading := result.at(site, task, readout)) is not None]
        if not readings:
            continue
        x = [sites.index(reading.site) for reading in readings]
        y = [100 * reading.score.value for reading in readings]
        low = [100 * (reading.score.value - reading.score.low) for reading in readings]
        high = [100 * (reading.score.high - reading.score.value) for reading in readings]
        axes.errorbar(
            x, y, yerr=(low, high), color=_COLOURS[readout], marker=_MARKERS[readout], label=_LABELS[readout],
            markersize=9 if readout == "answer" else 5, capsize=2, lw=1.2,
        )  # fmt: skip
    chance = next((100 * reading.chance for reading in result.readings if reading.task == task), None)
    if chance is not None:
        axes.axhline(chance, color="0.6", linestyle=(0, (4, 3)), lw=1, label="best constant answer")
    axes.set(title=TITLES[task], ylim=(0, 102), xticks=range(len(sites)))
    axes.set_xticklabels(sites, rotation=35, ha="right")
    axes.grid(axis="y", color="0.92")
