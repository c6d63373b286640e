"""Draw a study: terminal table, Markdown, LaTeX, CSV, JSON, one self-contained HTML page, one picture."""

from eyeswap.report.analysis.analysis import Analysis, analyse
from eyeswap.report.figures import study_picture
from eyeswap.report.writers.terminal import terminal_report
from eyeswap.report.writers.write import write_report

__all__ = ["Analysis", "analyse", "study_picture", "terminal_report", "write_report"]
