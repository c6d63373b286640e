"""The figure of predictors: how well each number that is known beforehand orders encoders, average by average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eyeswap.files import atomic_path
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.results.predict import Prediction

SHOWN = ("vqa", "localization")  # what is said of overall follows from them
_DECIDED, _OPEN = "#1f5fa8", "#8a8a8a"


def draw(predictions: Sequence[Prediction], num_encoders: int, path: Path) -> None:
    """Draw one panel an average: Spearman's correlation of each predictor with its 95% interval, best first."""
    panels = {
        GROUP_TITLES[average]: [
            one for one in predictions if one.average == average and one.correlation.value is not None
        ]
        for average in SHOWN
    }
    panels = {title: rows for title, rows in panels.items() if rows}
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        height = 1.5 + 0.26 * max((len(rows) for rows in panels.values()), default=1)
        figure = Figure(figsize=(10.5, height), layout="constrained")
        for number, (title, rows) in enumerate(panels.items()):
            _panel(figure.add_subplot(1, len(panels), number + 1), title, rows)
        figure.suptitle(f"What predicts a VLM's scores? Rank correlations over {num_encoders} encoders")
        figure.supxlabel("Spearman's correlation, 95% interval; blue: told apart from none after Holm's correction")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def _panel(axes: Axes, title: str, rows: Sequence[Prediction]) -> None:
    for row, one in enumerate(rows):
        colour = _DECIDED if one.decided else _OPEN
        found = one.correlation
        if found.low is not None and found.high is not None:
            axes.hlines(row, found.low, found.high, color=colour, lw=1.6)
        axes.scatter(found.value or 0.0, row, color=colour, s=22, zorder=2)
    axes.axvline(0, color="0.6", lw=1, linestyle=(0, (4, 3)))
    axes.set(title=title, xlim=(-1.02, 1.02), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), [f"{one.predictor} ({one.correlation.n})" for one in rows])
    axes.grid(axis="x", color="0.92")
