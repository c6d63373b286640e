"""`eyeswap report STUDY_DIR`: write a study's report again from its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def report(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, such as runs/quickstart.")],
) -> None:
    """Write the report of a study (one HTML file, Markdown, CSV, JSON) and print its table."""
    from eyeswap.cli.console import open_console

    write_and_show(study_dir, open_console())


def write_and_show(study_dir: Path, console: Console) -> None:
    """Write the report of a study and print its table and where the page lies."""
    from eyeswap.report import gather, terminal_table, write_report

    pages = write_report(study_dir)
    console.print(terminal_table(gather(study_dir)))
    console.print(f"report: {pages['report.html']}", soft_wrap=True, highlight=False)
