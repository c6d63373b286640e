"""Where boxes go wrong: the fate of every localization answer, one bar an arm, with the ceiling of the token grid."""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.boxes import FATE_TITLES, FATES, Grounding
from eyeswap.report.figures.drawing import WIDE, Plot, Rows, new_figure, set_rows
from eyeswap.report.style import LIGHT, percent

COLORS = dict(zip(FATES, ("arm-2", "arm-4", "arm-1", "arm-3", "arm-6"), strict=True))


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure, if the study has localization benchmarks."""
    if not analysis.grounding:
        return []
    head = ["benchmark", "arm", *(f"{FATE_TITLES[fate]}, %" for fate in FATES), "first box anywhere, %"]
    rows: Rows = [[*head, "reachable by whole tokens, %"]]
    for one in analysis.grounding:
        reachable = "not known" if one.ceiling is None else percent(one.ceiling.reachable)
        lenient = "not recorded" if one.lenient is None else percent(one.lenient)
        rows.append([one.title, one.arm, *(percent(one.shares[fate]) for fate in FATES), lenient, reachable])
    return [
        Plot(
            "errors", "What became of every localization answer, by arm and benchmark",
            "Shares of all answers. The dark tick is the share of true boxes that a box made of whole visual tokens "
            "could reach: a yardstick and no bound, since a model may point between two tokens.",
            fates, rows,
        )
    ]  # fmt: skip


def fates(analysis: Analysis, width: float) -> Figure:
    """Draw one panel a benchmark and one bar an arm, divided by the fates of its answers."""
    panels: dict[str, list[Grounding]] = {}
    for one in analysis.grounding:
        panels.setdefault(one.title, []).append(one)
    columns = min(2, len(panels)) if width >= WIDE else 1
    rows = math.ceil(len(panels) / columns)
    num_arms = len(next(iter(panels.values())))
    legend = 0.35 if width >= WIDE else 0.75
    figure = new_figure(width, rows * (0.26 * num_arms + 0.7) + legend)
    for position, (title, bars) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, position + 1)
        for row, one in enumerate(bars):
            left = 0.0
            for fate in FATES:
                axes.barh(
                    row, one.shares[fate], 0.62, left, color=LIGHT[COLORS[fate]], edgecolor=LIGHT["paper"],
                    linewidth=0.8,
                )  # fmt: skip
                left += one.shares[fate]
            if one.ceiling is not None:
                at = [one.ceiling.reachable] * 2
                axes.plot(at, [row - 0.44, row + 0.44], color=LIGHT["paper"], linewidth=3.6)
                axes.plot(at, [row - 0.44, row + 0.44], color=LIGHT["ink"], linewidth=1.6)
        axes.set_title(title)
        note = f"right from IoU {bars[0].threshold:g}"
        axes.set_title(note, loc="right", color=LIGHT["muted"], fontsize=8, weight="normal")
        set_rows(axes, [analysis.labels[one.arm] for one in bars] if position % columns == 0 else [], num_arms)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
    handles = [Patch(color=LIGHT[COLORS[fate]], label=FATE_TITLES[fate]) for fate in FATES]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=5 if width >= WIDE else 3, frameon=False, fontsize=8.5,
        labelcolor=LIGHT["ink"], handlelength=1.0, handleheight=1.0,
    )  # fmt: skip
    return figure
