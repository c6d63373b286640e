"""`eyeswap score RUN`: score stored predictions again, in either mode, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eyeswap.evaluation.benchmark import Mode
    from eyeswap.results.averages import Weights

MODES: dict[str, Mode] = {"study": "study", "official": "official"}
WEIGHTS: dict[str, Weights] = {"counts": "counts", "published": "published"}
EXAMPLE = "Example: eyeswap score runs/quickstart/vit/seed-7 --mode official"


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, its evaluation finished or not.")],
    mode: Annotated[
        str, typer.Option("--mode", help="study: the published pipeline's scores; official: the benchmarks' own.")
    ] = "study",
    benchmarks: Annotated[str, typer.Option("--benchmarks", help="Only these, by commas.")] = "",
    root: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Data root, for answers stored without their details.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="Of the averages: counts at hand, or those of the published sets.")
    ] = "counts",
    details: Annotated[bool, typer.Option("--details", help="Also print every further metric.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score the stored predictions of a run again; nothing is written, no model is loaded."""
    import json

    from eyeswap.cli.console import open_console
    from eyeswap.errors import SpecError, nearest

    for option, value, allowed in (("--mode", mode, MODES), ("--weights", weights, WEIGHTS)):
        if value not in allowed:
            raise SpecError(f"{option} {value}: {nearest(value, allowed)}")
    from eyeswap.results.rescore import rescore

    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    content = rescore(run, MODES[mode], names, root, WEIGHTS[weights])
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    _print(run, content, details, open_console())


def scores_table(title: str, content: dict[str, Any]) -> Table:
    """Return benchmarks and averages as a table; ``content`` is as ``scores.json``."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("benchmark", "metric"):
        table.add_column(name)
    for name in ("answered", "score", "95% interval", "baseline", "invalid", "errors"):
        table.add_column(name, justify="right")
    for entry in content["benchmarks"].values():
        answered = f"{entry['n']:,}" + (f" of {entry['num_examples']:,}" if entry["n"] < entry["num_examples"] else "")
        table.add_row(
            entry["title"],
            entry["metric"],
            answered,
            *_numbers(entry),
            f"{entry['invalid_rate']:.1f}",
            str(entry["errors"]),
        )
    table.add_section()
    for name, entry in content["averages"].items():
        table.add_row(f"[bold]{name}[/bold]", "", f"{entry['n']:,}", *_numbers(entry), "", "")
    return table


def _print(run: Path, content: dict[str, Any], details: bool, console: Console) -> None:
    console.print(scores_table(f"{run}, mode {content['mode']}, percent", content))
    for name, entry in content["benchmarks"].items():
        changed = entry["changed"]
        if changed and content["mode"] == "study":
            console.print(f"{name}: {changed:,} scores differ from those stored", highlight=False)
        if entry["note"]:
            console.print(f"{name}: {entry['note']}", highlight=False)
        if details:
            _print_details(name, entry, console)


def _numbers(entry: dict[str, Any]) -> list[str]:
    low, high = entry["interval"]
    baseline = "" if entry["baseline"] is None else f"{entry['baseline']['score']:.2f}"
    return [f"{entry['score']:.2f}", f"{low:.2f} .. {high:.2f}", baseline]


def _print_details(name: str, entry: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table("metric", "value", "", title=name, title_justify="left")
    for metric, value in entry["details"].items():
        table.add_row(metric, "" if value is None else f"{value:.2f}", entry["reasons"].get(metric, ""))
    for metric, reason in entry["reasons"].items():
        if metric not in entry["details"]:
            table.add_row(metric, "", reason)
    console.print(table)
