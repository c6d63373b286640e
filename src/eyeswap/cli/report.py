"""`eyeswap report|audit|published|export|import`: a finished study's report, audit and archive; published results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption, RunsOption, TrustOption

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.audit.audit import AuditReport, Fact
    from eyeswap.report.analysis.analysis import Analysis

AUDIT_EXAMPLE = "Example: eyeswap audit runs/quickstart"
REPORT_EXAMPLE = "Example: eyeswap report runs/quickstart"
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
StudyDir = Annotated[
    Path, typer.Argument(metavar="STUDY_DIR", file_okay=False, help="Folder of a study, such as runs/quickstart.")
]


def report(
    study_dir: StudyDir,
    margin: Annotated[
        float,
        typer.Option("--margin", metavar="POINTS", help='Largest loss that still counts as "no worse".'),
    ] = 1.0,
    looks: Annotated[
        bool | None,
        typer.Option(
            "--looks/--no-looks",
            help="Show where in the image each answer comes from, with the trained models; by default if small.",
        ),
    ] = None,
    trust_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that the page says as JSON.")] = False,
) -> None:
    """Write the report of a study and print its verdict and tables.

    The report is one HTML page, with the same content as Markdown, LaTeX tables, CSV and JSON.
    """
    from eyeswap.console import open_console
    from eyeswap.report import analyse

    analysis = analyse(study_dir, margin)
    if as_json:
        typer.echo(_write(analysis, looks, trusts_code=trust_code)["results.json"].read_text(encoding="utf-8"))
        return
    write_and_show(analysis, open_console(), looks, trusts_code=trust_code)


def write_and_show(
    analysis: Analysis, console: Console, looks: bool | None = None, *, trusts_code: bool = False
) -> None:
    """Write the report of a study, and print its verdict, its tables and the path of its page."""
    from eyeswap.report import terminal_report

    pages = _write(analysis, looks, trusts_code=trusts_code)
    console.print(terminal_report(analysis))
    console.print(f"report: {pages['report.html']}", soft_wrap=True, highlight=False)


def _write(analysis: Analysis, looks: bool | None, *, trusts_code: bool) -> dict[str, Path]:
    from eyeswap.console import progress_console
    from eyeswap.progress import progress
    from eyeswap.report import write_report
    from eyeswap.report.writers.looks import are_small, look_at_examples

    if not (are_small(analysis.results) if looks is None else looks):
        return write_report(analysis)
    with progress(progress_console()) as board:
        found, problems = look_at_examples(analysis.results, board, trusts_code=trusts_code)
    for problem in problems:
        typer.echo(problem, err=True)
    return write_report(analysis, found)


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


def audit(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS...", help="Run folders, or a study's folder for all of its runs."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Verify what was held fixed between runs, and list every difference.

    Also lists whatever weakens the evidence. Exits with 1 if runs differ in anything that the study did not declare, or
    if files do not match their records. docs/audit.md explains each warning: what it means, why it matters and how to
    resolve it.
    """
    from eyeswap.audit.audit import audit as audit_runs
    from eyeswap.console import open_console
    from eyeswap.results.run import load_runs

    findings = audit_runs(load_runs(runs))
    if as_json:
        import json

        typer.echo(json.dumps(findings.as_dict(), indent=1, ensure_ascii=False))
    else:
        show_audit(findings, open_console())
    raise typer.Exit(1 if findings.undeclared or findings.errors else 0)


def show_audit(findings: AuditReport, console: Console) -> None:
    """Print an audit: the facts with their verdicts, the warnings, and a one-line summary."""
    from rich.table import Table
    from rich.text import Text

    table = Table("fact", "verdict", "value", title=f"audit of {len(findings.runs)} runs", title_justify="left")
    for facts, verdict in (
        (findings.undeclared, Text("UNDECLARED difference", "red")),
        (findings.declared, Text("declared difference", "yellow")),
        (findings.equal, Text("equal", "green")),
    ):
        for fact in facts:
            table.add_row(fact.title, verdict, _values(fact))
    for title in findings.unknown:
        table.add_row(title, "not recorded", "")
    console.print(table)
    for finding in findings.warnings:
        severity = (f"{finding.severity}:", _COLOURS[finding.severity])
        console.print(Text.assemble(severity, f" {finding} ", (f"({finding.docs})", "dim")), soft_wrap=True)
    declared = ", ".join(findings.may_differ) or "nothing"
    summary = f"{len(findings.equal)} facts equal, {len(findings.declared)} declared differences"
    summary += f" (arms may differ in {declared}), {len(findings.undeclared)} undeclared"
    if findings.errors:
        doubtful = sorted({run for finding in findings.errors for run in finding.runs})
        summary += f"; files do not match their records in {', '.join(doubtful)}"
    console.print(
        summary, style="bold red" if findings.undeclared or findings.errors else "bold green", highlight=False
    )


def _values(fact: Fact) -> str:
    """Return the value if all runs share it, otherwise one line per value with the runs that have it."""
    runs_by_value = fact.runs_by_value
    if len(runs_by_value) == 1:
        return next(iter(runs_by_value))
    return "\n".join(f"{value}: {', '.join(runs)}" for value, runs in runs_by_value.items())
