"""`eyeswap report|published|export|import`: a study's report, published results, and results as an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption, RunsOption

if TYPE_CHECKING:
    from rich.console import Console

REPORT_EXAMPLE = "Example: eyeswap report runs/quickstart"
StudyDir = Annotated[
    Path, typer.Argument(metavar="STUDY_DIR", file_okay=False, help="Folder of a study, such as runs/quickstart.")
]


def report(
    study_dir: StudyDir,
    margin: Annotated[
        float,
        typer.Option("--margin", metavar="POINTS", help='Largest loss that still counts as "no worse".'),
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that the page says as JSON.")] = False,
) -> None:
    """Write the report of a study and print its verdict and tables.

    The report is one HTML page, with the same content as Markdown, LaTeX tables, CSV and JSON.
    """
    from eyeswap.console import open_console

    if as_json:
        from eyeswap.report import analyse, write_report

        typer.echo(write_report(analyse(study_dir, margin))["results.json"].read_text(encoding="utf-8"))
        return
    write_and_show(study_dir, open_console(), margin)


def write_and_show(study_dir: Path, console: Console, margin: float = 1.0) -> None:
    """Write the report of a study, and print its verdict, its tables and the path of its page."""
    from eyeswap.report import analyse, terminal_report, write_report

    analysis = analyse(study_dir, margin)
    pages = write_report(analysis)
    console.print(terminal_report(analysis))
    console.print(f"report: {pages['report.html']}", soft_wrap=True, highlight=False)


PUBLISHED_EXAMPLE = "Example: eyeswap published"


def published(as_json: JsonOption = False) -> None:
    """List the published study's results: weighted accuracies in percent.

    The values are those of the released table or read from Figure 1. --json adds the curves of Figure 4.
    """
    from eyeswap.results.published import published_profile, published_results

    if as_json:
        import json
        from dataclasses import asdict

        rows = [result.as_dict() for result in published_results()]
        curves = [asdict(point) for point in published_profile()]
        typer.echo(json.dumps({"results": rows, "profile": curves}, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from eyeswap.console import open_console

    table = Table("model", "backbone", "M", "tokens", "VQA", "loc.", "overall", "+-", "IN1K", "source", "note")
    for result in published_results():
        status = "" if result.status == "ok" else f"{result.status}; "
        table.add_row(
            result.model,
            result.backbone,
            f"{result.parameters_m:g}",
            "" if result.tokens is None else f"{result.tokens:,}",
            *("" if score is None else f"{score:.2f}" for score in (result.vqa, result.localization, result.overall)),
            f"{result.precision:g}",
            "" if result.top1 is None else f"{result.top1:.2f}",
            result.source,
            status + result.note,
        )
    open_console().print(table)


EXPORT_EXAMPLE = "Example: eyeswap export runs/quickstart --out quickstart.eyeswap.zip"
IMPORT_EXAMPLE = "Example: eyeswap import quickstart.eyeswap.zip --runs pooled"


def export(
    study_dir: StudyDir,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Archive to write; by default STUDY.eyeswap.zip in this folder."),
    ] = None,
) -> None:
    """Pack a study's records, scores, predictions and report into one small archive, without weights."""
    from eyeswap.results.archive import SUFFIX, export_study

    archive = out or Path(f"{study_dir.resolve().name}{SUFFIX}")
    digest = export_study(study_dir, archive)
    typer.echo(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, digest {digest}")


def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="An archive made by `eyeswap export`.")],
    runs: RunsOption = Path("runs"),
) -> None:
    """Verify an exported archive and merge its runs into the study of the same name."""
    from eyeswap.results.archive import import_study

    imported = import_study(archive, runs)
    typer.echo(f"digest {imported.digest}")
    for run in imported.added:
        typer.echo(f"added  {run}")
    for run in imported.known:
        typer.echo(f"known  {run} (the same results)")
    typer.echo(f"to report on all runs together: eyeswap report {imported.folder}")
