"""The profile of a machine: latency of each stage and memory against resolution, the paper's Figure 4 form."""

from __future__ import annotations

from matplotlib.figure import Figure

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.figures.drawing import WIDE, Plot, Rows, indexed
from eyeswap.report.figures.profile import profile_figure


def plots(analysis: Analysis) -> list[Plot]:
    """Return the figure, if the study's folder holds a profile."""
    if not analysis.profile:
        return []
    heads = ["vision, ms", "to the first token, ms", "one more token, ms", "peak, GiB", "why not"]
    rows: Rows = [["backbone", "side, px", "tokens", *heads]]
    for cell in analysis.profile:
        seconds = (cell.vision_s, cell.end_to_end_s, cell.decode_s)
        rows.append(
            [
                cell.backbone, str(cell.side_px), "" if cell.tokens is None else str(cell.tokens),
                *("" if value is None else f"{1e3 * value:.3g}" for value in seconds),
                "" if cell.peak_bytes is None else f"{cell.peak_bytes / 2**30:.3g}", cell.problem,
            ]
        )  # fmt: skip
    return [
        Plot(
            "stages", "Latency of vision, first token and decoding, and peak memory, against image resolution",
            "Measured by `eyeswap profile` on the machine that its file names, batch 1; both axes are logarithmic. "
            "Lines end where a cell failed or was left out.",
            stages, rows,
        )
    ]  # fmt: skip


def stages(analysis: Analysis, width: float) -> Figure:
    """Draw four panels, one line a backbone, in the colour of its arm where it has one."""
    of_arms = {str(arm.backbone.name): index for index, arm in indexed(analysis.results)}
    names = dict.fromkeys(cell.backbone for cell in analysis.profile)
    others = [name for name in names if name not in of_arms]
    looks = of_arms | {name: len(analysis.results.arms) + number for number, name in enumerate(others)}
    return profile_figure(analysis.profile, width, 2 if width >= WIDE else 1, looks)
