"""Draw a study: terminal table, Markdown, CSV, JSON, one self-contained HTML page, one picture."""

from eyeswap.report.figures import study_picture
from eyeswap.report.gather import StudyResults, gather
from eyeswap.report.tables import terminal_table
from eyeswap.report.write import write_report

__all__ = ["StudyResults", "gather", "study_picture", "terminal_table", "write_report"]
