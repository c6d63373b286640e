"""The figures of a report, one module per kind; `plots` returns those for which the analysis has data."""

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.figures import budget, errors, learning, prediction, profile, scores, token_budget
from eyeswap.report.figures.drawing import NARROW, WIDE, Plot, svg

__all__ = ["NARROW", "WIDE", "Plot", "plots", "svg"]


def plots(analysis: Analysis) -> dict[str, Plot]:
    """Return every figure that can be drawn, by name."""
    kinds = (scores, budget, token_budget, prediction, errors, learning, profile)
    if not analysis.results.finished_arms:
        return {}
    return {plot.name: plot for kind in kinds for plot in kind.plots(analysis)}
