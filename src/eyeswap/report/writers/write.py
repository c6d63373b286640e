"""Write a study's report: all files of ``<study>/report``."""

from __future__ import annotations

from pathlib import Path

from eyeswap.files import write_json, write_text
from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.writers.data import as_json, long_csv
from eyeswap.report.writers.examples import Looks
from eyeswap.report.writers.latex import latex
from eyeswap.report.writers.markdown import markdown
from eyeswap.report.writers.page import render
from eyeswap.runs.folder import StudyFolder

FILES = ("report.html", "report.md", "tables.tex", "results.csv", "results.json")


def write_report(analysis: Analysis, looks: Looks | None = None) -> dict[str, Path]:
    """Write the files of the report; return their paths by name.

    Args:
        analysis: the content.
        looks: where in the image each answer comes from, see `eyeswap.report.writers.looks`; left out without it.
    """
    folder = StudyFolder(analysis.results.folder).report
    paths = {name: folder / name for name in FILES}
    write_json(paths["results.json"], as_json(analysis))
    write_text(paths["results.csv"], long_csv(analysis.results))
    write_text(paths["report.md"], markdown(analysis))
    write_text(paths["tables.tex"], latex(analysis))
    write_text(paths["report.html"], render(analysis, looks))
    return paths
