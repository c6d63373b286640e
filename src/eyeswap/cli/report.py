"""`eyeswap report|published|export|import`: the report of a study, published results, and results as one file."""

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
    from eyeswap.console import open_console

    write_and_show(study_dir, open_console(), margin)


def write_and_show(study_dir: Path, console: Console, margin: float = 1.0) -> None:
    """Write the report of a study, print its verdict and tables, and where the page lies."""
    from eyeswap.report import analyse, terminal_report, write_report

    analysis = analyse(study_dir, margin)
    pages = write_report(analysis)
    console.print(terminal_report(analysis))
    console.print(f"report: {pages['report.html']}", soft_wrap=True, highlight=False)


PUBLISHED_EXAMPLE = "Example: eyeswap published"


def published(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all results, and the curves of Figure 4, as JSON.")
    ] = False,
) -> None:
    """List the published results: weighted accuracies in percent, as printed or drawn."""
    from eyeswap.results.published import published_profile, published_results

    if as_json:
        import json
        from dataclasses import asdict

        rows = [one.as_dict() for one in published_results()]
        curves = [asdict(point) for point in published_profile()]
        typer.echo(json.dumps({"results": rows, "profile": curves}, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from eyeswap.console import open_console

    table = Table("model", "backbone", "M", "tokens", "VQA", "loc.", "overall", "+-", "IN1K", "source", "note")
    for one in published_results():
        marked = "" if one.status == "ok" else f"{one.status}; "
        table.add_row(
            one.model,
            one.backbone,
            f"{one.parameters_m:g}",
            "" if one.tokens is None else f"{one.tokens:,}",
            *("" if score is None else f"{score:.2f}" for score in (one.vqa, one.localization, one.overall)),
            f"{one.precision:g}",
            "" if one.top1 is None else f"{one.top1:.2f}",
            one.source,
            marked + one.note,
        )
    open_console().print(table)


EXPORT_EXAMPLE = "Example: eyeswap export runs/quickstart --out quickstart.eyeswap.zip"
IMPORT_EXAMPLE = "Example: eyeswap import quickstart.eyeswap.zip --runs pooled"


def export(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, such as runs/quickstart.")],
    out: Annotated[Path | None, typer.Option(help="File to write; by default STUDY.eyeswap.zip here.")] = None,
) -> None:
    """Pack specs, environments, scores, predictions and report of a study into one small file."""
    from eyeswap.results.archive import SUFFIX, export_study

    archive = out or Path(f"{study_dir.resolve().name}{SUFFIX}")
    digest = export_study(study_dir, archive)
    typer.echo(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, digest {digest}")


def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="An archive made by `eyeswap export`.")],
    runs: Annotated[Path, typer.Option(help="Folder of all studies' runs.")] = Path("runs"),
) -> None:
    """Verify an archive and merge its runs into the study of the same name."""
    from eyeswap.results.archive import import_study

    done = import_study(archive, runs)
    typer.echo(f"digest {done.digest}")
    for run in done.added:
        typer.echo(f"added  {run}")
    for run in done.known:
        typer.echo(f"known  {run} (the same results)")
    typer.echo(f"eyeswap report {done.folder} writes the report of all runs together")
