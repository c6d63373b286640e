"""The report of a study: terminal tables, Markdown, LaTeX, CSV, JSON and a self-contained HTML page."""

from eyeswap.report.analysis.analysis import analyse
from eyeswap.report.writers.terminal import terminal_report
from eyeswap.report.writers.write import write_report

__all__ = ["analyse", "terminal_report", "write_report"]
