"""Learning curves: the training loss of every run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.figures.drawing import Plot, Rows, indexed, new_figure
from eyeswap.report.style import LIGHT, color
from eyeswap.results.run import Run

LOSS_POINTS = 240
_TABLE_POINTS = 6


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure."""
    rows: Rows = [["arm", "seed", "step", "loss, running mean"]]
    for arm in analysis.results.finished_arms:
        for run in arm.runs:
            steps, _, smooth = _curve(run)
            keep = np.unique(np.linspace(0, max(len(steps) - 1, 0), _TABLE_POINTS).astype(int))[: len(steps)]
            rows += [[arm.name, str(run.seed), f"{steps[i]:.0f}", f"{smooth[i]:.3f}"] for i in keep]
    return [
        Plot(
            "learning", "Training loss of every arm over the optimizer steps",
            "Training loss over optimizer steps: a running mean, with the raw values faint behind it.",
            learning_curves, rows,
        )
    ]  # fmt: skip


def learning_curves(analysis: Analysis, width: float) -> Figure:
    """Draw the training loss of every run over its steps: a running mean, with the raw values faint behind it."""
    arms = indexed(analysis.results)
    figure = new_figure(width, 3.0)
    axes = figure.add_subplot()
    smooth_max = smooth_min = None
    for index, arm in arms:
        for number, run in enumerate(arm.runs):
            steps, losses, smooth = _curve(run)
            if not len(steps):
                continue
            axes.plot(steps, losses, color=color(index), linewidth=0.7, alpha=0.3)
            axes.plot(
                steps,
                smooth,
                color=color(index),
                linewidth=1.8,
                label=analysis.labels[arm.name] if number == 0 else None,
            )
            smooth_max = max(smooth_max or 0.0, float(smooth.max()))
            smooth_min = min(smooth_min or math.inf, float(smooth.min()))
    if smooth_max is not None and smooth_min is not None:
        margin = 0.06 * (smooth_max - smooth_min) or 0.1
        axes.set_ylim(smooth_min - 2 * margin, smooth_max + margin)
        if len(arms) <= 8:
            axes.legend(frameon=False, loc="upper right", labelcolor=LIGHT["ink"])
        else:  # a legend of so many arms needs space of its own
            figure.set_figheight(3.0 + 0.2 * math.ceil(len(arms) / (4 if width > 6 else 2)))
            figure.legend(
                frameon=False, loc="outside lower center", ncols=4 if width > 6 else 2, fontsize=8,
                labelcolor=LIGHT["ink"],
            )  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.margins(x=0.01)
    return figure


def _curve(run: Run) -> tuple[Any, Any, Any]:
    """Return steps, losses and their running mean, at most ``LOSS_POINTS`` of each."""
    steps = np.array([row["step"] for row in run.training_rows], dtype=np.float64)
    losses = np.array([row["loss"] for row in run.training_rows], dtype=np.float64)
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    window = max(1, len(losses) // 25)
    kernel = np.ones(window)
    smooth = np.convolve(losses, kernel, "same") / np.convolve(np.ones_like(losses), kernel, "same")
    last = max(len(losses) - 1, 0)
    keep = np.unique(np.linspace(0, last, LOSS_POINTS).astype(int))[: len(losses)]
    return steps[keep], losses[keep], smooth[keep]
