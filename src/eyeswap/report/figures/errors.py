"""Where boxes go wrong: the fates of localization answers, one bar per arm, with the ceiling of the token grid."""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.boxes import FATE_TITLES, FATES, Grounding
from eyeswap.report.figures.drawing import WIDE, Plot, Rows, new_figure, set_rows
from eyeswap.report.style import LIGHT, percent

COLORS = dict(zip(FATES, ("good", "loose", "alert", "frame", "unparsed"), strict=True))


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure, if the study has localization benchmarks."""
    if not analysis.grounding:
        return []
    head = ["benchmark", "arm", *(f"{FATE_TITLES[fate]}, %" for fate in FATES), "first box anywhere, %"]
    rows: Rows = [[*head, "reachable with whole tokens, %"]]
    for bar in analysis.grounding:
        reachable = "unknown" if bar.ceiling is None else percent(bar.ceiling.reachable)
        lenient = "not recorded" if bar.lenient is None else percent(bar.lenient)
        rows.append([bar.title, bar.arm, *(percent(bar.shares[fate]) for fate in FATES), lenient, reachable])
    return [
        Plot(
            "errors", "Outcomes of all localization answers, by arm and benchmark",
            "Shares of all answers. The dark tick is the share of ground-truth boxes that boxes of whole visual tokens "
            "could match: a reference point, not a bound, since a model may predict edges between two tokens.",
            fates, rows,
        )
    ]  # fmt: skip


def fates(analysis: Analysis, width: float) -> Figure:
    """Draw one panel per benchmark and one bar per arm, divided by the fates of its answers."""
    panels: dict[str, list[Grounding]] = {}
    for bar in analysis.grounding:
        panels.setdefault(bar.title, []).append(bar)
    columns = min(2, len(panels)) if width >= WIDE else 1
    rows = math.ceil(len(panels) / columns)
    num_arms = len(next(iter(panels.values())))
    legend = 0.35 if width >= WIDE else 0.75
    figure = new_figure(width, rows * (0.26 * num_arms + 0.7) + legend)
    for position, (title, bars) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, position + 1)
        for row, bar in enumerate(bars):
            left = 0.0
            for fate in FATES:
                axes.barh(
                    row, bar.shares[fate], 0.62, left, color=LIGHT[COLORS[fate]], edgecolor=LIGHT["paper"],
                    linewidth=0.8,
                )  # fmt: skip
                left += bar.shares[fate]
            if bar.ceiling is not None:
                at = [bar.ceiling.reachable] * 2
                axes.plot(at, [row - 0.44, row + 0.44], color=LIGHT["paper"], linewidth=3.6)
                axes.plot(at, [row - 0.44, row + 0.44], color=LIGHT["ink"], linewidth=1.6)
        axes.set_title(title)
        note = f"IoU \N{GREATER-THAN OR EQUAL TO} {bars[0].threshold:g}"
        axes.set_title(note, loc="right", color=LIGHT["muted"], fontsize=8, weight="normal")
        set_rows(axes, [analysis.labels[bar.arm] for bar in bars] if position % columns == 0 else [], num_arms)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
    handles = [Patch(color=LIGHT[COLORS[fate]], label=FATE_TITLES[fate]) for fate in FATES]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=5 if width >= WIDE else 3, frameon=False, fontsize=8.5,
        labelcolor=LIGHT["ink"], handlelength=1.0, handleheight=1.0,
    )  # fmt: skip
    return figure
