"""`eyeswap audit RUNS...`: verify from the run folders what was held fixed, and list what was not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.audit.audit import AuditReport, Fact

EXAMPLE = "Example: eyeswap audit runs/quickstart"
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


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
        show(findings, open_console())
    raise typer.Exit(1 if findings.undeclared or findings.errors else 0)


def show(findings: AuditReport, console: Console) -> None:
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
