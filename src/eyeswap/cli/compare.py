"""`eyeswap compare RUN_A RUN_B`: paired differences of two runs, with examples on which they disagree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeswap.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE = "Example: eyeswap compare runs/quickstart/vit/seed-7 runs/quickstart/vmamba/seed-7 --examples 5"
_MOST_CHARACTERS = 60  # in a cell
_LEVEL = 0.05


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run's folder.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="The folder of the run to compare with it.")],
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", metavar="NAME", help="Only this benchmark; repeatable.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, metavar="N", help="Disagreements to print per benchmark.")
    ] = 3,
    as_json: JsonOption = False,
) -> None:
    """Print the paired difference B - A of two runs, with its interval, for every benchmark."""
    import json

    from eyeswap.console import open_console
    from eyeswap.results.compare import compare_runs

    content = compare_runs(first, second, benchmark or (), examples)
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    console = open_console()
    console.print(_differences(content))
    console.print(_in_words(content), highlight=False)
    console.print(
        "p: sign-flip test by image, Holm-adjusted over benchmarks and over averages; McNemar's p is exact, treats "
        "questions as independent and is not adjusted",
        style="dim",
    )
    for note in content["notes"]:
        console.print(f"! {note}", highlight=False, soft_wrap=True, markup=False)
    for entry in content["benchmarks"].values():
        if entry["examples"]:
            _print_examples(entry, console)


def _in_words(content: dict[str, Any]) -> str:
    """Return one sentence: where each run is ahead, and what is not decided."""
    entries = {**content["averages"], **{entry["title"]: entry for entry in content["benchmarks"].values()}}
    outcomes: dict[str, list[str]] = {"B is ahead in": [], "A is ahead in": [], "not decided:": []}
    for title, entry in entries.items():
        ahead = "B is ahead in" if entry["difference"] > 0 else "A is ahead in"
        outcomes[ahead if entry["p_holm"] < _LEVEL else "not decided:"].append(title)
    return "; ".join(f"{outcome} {', '.join(titles)}" for outcome, titles in outcomes.items() if titles)


def _differences(content: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    a, b = content["runs"]
    table = Table(title=f"A = {a}\nB = {b}\npercent, differences in points", title_justify="left")
    table.add_column("benchmark")
    for name in ("examples", "A", "B", "B - A", "95% interval", "p", "only A right", "only B right", "McNemar p"):
        table.add_column(name, justify="right")
    for entry in content["benchmarks"].values():
        test = entry["mcnemar"]
        counts = ("", "", "") if test is None else (str(test["only_first"]), str(test["only_second"]), _p(test["p"]))
        table.add_row(entry["title"], *_row(entry), *counts)
    table.add_section()
    for name, entry in content["averages"].items():
        table.add_row(Text(name, "bold"), *_row(entry), "", "", "")
    return table


def _row(entry: dict[str, Any]) -> list[str]:
    low, high = entry["interval"]
    return [
        f"{entry['n']:,}",
        f"{entry['first']:.2f}",
        f"{entry['second']:.2f}",
        f"{entry['difference']:+.2f}",
        f"{low:+.2f} .. {high:+.2f}",
        _p(entry["p_holm"]),
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _print_examples(entry: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("example", "image", "question", "ground truth", "A", "B", title=entry["title"], title_justify="left")
    for row in entry["examples"]:
        answers = [f"{text} ({score:.2g})" for text, score in zip(row["answers"], row["scores"], strict=True)]
        image = Path(row.get("image", "")).name
        cells = [row["example_id"], image, row.get("question", ""), _truth(row.get("truth", "null")), *answers]
        table.add_row(*(Text(_shortened(cell)) for cell in cells))
    console.print(table)


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _MOST_CHARACTERS else cell[: _MOST_CHARACTERS - 3] + "..."


def _truth(text: str) -> str:
    """Return the ground truth as text: ten human answers with their counts, anything else as it is stored."""
    import json
    from collections import Counter

    truth = json.loads(text)
    if isinstance(truth, list) and truth and all(isinstance(answer, str) for answer in truth):
        return ", ".join(f"{answer} x{count}" for answer, count in Counter(truth).most_common())
    return truth if isinstance(truth, str) else json.dumps(truth)
