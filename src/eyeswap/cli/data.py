"""`eyeswap data list|prepare|check|make`: the benchmark files on disk, and the embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.data.prepare import Inspection

app = typer.Typer(no_args_is_help=True, help="Benchmark files: what they are, what is on disk; make data sets.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A benchmark, a family of them, or all.")]
Root = Annotated[Path, typer.Option("--root", help="Data root; files lie below DIR/download/FAMILY.", metavar="DIR")]
OpenImages = Annotated[bool, typer.Option("--check-images", help="Also decode every image and compare its size.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: eyeswap data list --root data")
def list_families(root: Root = Path("data"), as_json: AsJson = False) -> None:
    """List the benchmark files that eyeswap reads, with licence and size, and which of them are on disk."""
    import json

    from rich.table import Table

    from eyeswap.cli.console import open_console
    from eyeswap.data.families import FAMILIES
    from eyeswap.data.prepare import Inspection, look

    found = [Inspection(family, look(family, root)) for family in FAMILIES.values()]
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found], indent=1))
        return
    table = Table("family", "benchmarks", "examples", "downloads", "licence", "on disk", title=f"below {root}")
    for one in found:
        family = one.family
        sizes = " + ".join(dict.fromkeys(source.size for source in family.sources if source.size)) or "not stated"
        counts = " or ".join(f"{sum(counts.values()):,}" for counts in family.counts)
        here = f"{sum(file.exists for file in one.files)} of {len(one.files)}"
        table.add_row(family.name, ", ".join(family.benchmarks), counts, sizes, family.licence, here)
    open_console().print(table)


@app.command(epilog="Example: eyeswap data prepare vqav2 --root data")
def prepare(
    name: Name,
    root: Root = Path("data"),
    slim: Annotated[
        str, typer.Option("--slim", help="Sizes of the slim sets, by commas; 16384 is added for VQA v2.")
    ] = "1024,8192",
    check_images: OpenImages = False,
    as_json: AsJson = False,
) -> None:
    """Check a benchmark's official files, and write its full, subsampled and slim index files.

    Nothing is downloaded: what is missing is named with the place where it is published. Index files go to
    DIR/datasets/FAMILY in the layout of the published evaluation suite; those that are there already are kept.
    """
    from eyeswap.errors import SpecError

    sizes = [int(size) if size.strip().isdecimal() else 0 for size in slim.split(",")] if slim else []
    if 0 in sizes:
        raise SpecError(f"--slim {slim}: sizes are whole numbers above 0, such as 1024,8192")
    _inspect(name, root, sizes, check_images, as_json)


@app.command(epilog="Example: eyeswap data check all --root data --check-images")
def check(name: Name, root: Root = Path("data"), check_images: OpenImages = False, as_json: AsJson = False) -> None:
    """Check a benchmark's official files as prepare does; write nothing."""
    _inspect(name, root, None, check_images, as_json)


def _inspect(name: str, root: Path, sizes: list[int] | None, check_images: bool, as_json: bool) -> None:
    """Inspect, print, and leave with 1 if something is not as published."""
    import json

    from eyeswap.cli.console import open_console
    from eyeswap.data.prepare import SUBSAMPLED_SIZES, families_named, inspect
    from eyeswap.progress import progress

    families = families_named(name)
    console = open_console()
    found = []
    with progress() as board:
        for family in families:
            own = None if sizes is None else [*sizes, *SUBSAMPLED_SIZES.get(family.name, ())]
            found.append(inspect(family, root, own, check_images, board))
            if not as_json:
                _print(found[-1], console)
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found], indent=1))
    if any(one.complaints for one in found):
        raise typer.Exit(1)


def _print(found: Inspection, console: Console) -> None:
    """Print one family: what it is, its files, its counts, what is wrong, what was written."""
    family = found.family
    lines = [f"[bold]{family.title}[/bold] ({', '.join(family.benchmarks)}): {family.about}"]
    lines += [f"  licence: {family.licence}"]
    for file in found.files:
        size = f", {file.source.size}" if file.source.size else ""
        about = f"found{f', {file.version}' if file.version else ''}" if file.exists else "missing"
        lines.append(f"  {about:<8} {file.path}" + ("" if file.exists else f"  <- {file.source.url}{size}"))
    if found.counts:
        parts = " + ".join(f"{name} {count:,}".strip() for name, count in found.counts.items())
        total = sum(found.counts.values())
        published = sum(found.published.values())
        lines.append(f"  {total:,} examples ({parts}), published {published:,}; {found.num_images:,} images")
    if found.splits:
        lines.append("  carried: " + ", ".join(f"{name} {count:,}" for name, count in found.splits.items()))
    kept = sum(told == "kept" for told in found.written.values())
    written = sum(told == "written" for told in found.written.values())
    if found.written:
        folder = f"datasets/{family.name}"
        lines.append(f"  index files in {folder}: {written} written, {kept} kept")
        lines += [
            f"  {folder}/{name}: {told}" for name, told in found.written.items() if told not in ("written", "kept")
        ]
    verdict = [f"  [red]![/red] {line}" for line in found.complaints] or ["  [green]complete, as published[/green]"]
    console.print("\n".join([*lines, *verdict]), highlight=False, soft_wrap=True)
    console.print()


@app.command(epilog="Example: eyeswap data make digits --out data/digits --train 400 --val 100")
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set: digits.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed that draws the scenes.")] = 0,
    train: Annotated[int, typer.Option(min=1, help="Number of training images.")] = 4000,
    val: Annotated[int, typer.Option(min=1, help="Number of validation images.")] = 400,
    turns: Annotated[int, typer.Option(min=1, help="Question-answer turns in each conversation.")] = 10,
) -> None:
    """Draw the embedded data set and write it as the official sets are written."""
    from eyeswap.errors import SpecError, nearest

    if name != "digits":
        raise SpecError(f'unknown data set "{name}". {nearest(name, ["digits"])}')
    from eyeswap.data.digits.write import DigitsSize, num_scenes, write_digits
    from eyeswap.progress import progress

    size = DigitsSize(seed, train, val, turns)
    with progress() as board:
        digest = write_digits(out, size, board.task("draw the data set", num_scenes(size)).advance)
    typer.echo(f"data: {out}, digest {digest[:12]}")
