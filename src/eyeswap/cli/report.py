"""`eyeswap report STUDY_DIR`: write a study's report again from its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def report(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, such as runs/quickstart.")],
    margin: Annotated[
        float, typer.Option("--margin", help='Loss, in points, that counts as none: for "no worse than".')
    ] = 1.0,
) -> None:
    """Write the report of a study (one HTML page, Markdown, LaTeX, CSV, JSON) and print its verdict and tables."""
    from eyeswap.cli.console import open_console

    write_and_show(study_dir, open_console(), margin)


def write_and_show(study_dir: Path, console: Console, margin: float = 1.0) -> None:
    """Write the report of a study, print its verdict and tables, and where the page lies."""
    from eyeswap.report import analyse, terminal_report, write_report

    analysis = analyse(study_dir, margin)
    pages = write_report(analysis)
    console.print(terminal_report(analysis))
    console.print(f"report: {pages['report.html']}", soft_wrap=True, highlight=False)
