"""`eyeswap data list|fetch|check|prepare|make`: the official files of all data sets, and the embedded one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from eyeswap.data.official.catalogue import DataSet, FoundFile
    from eyeswap.data.official.families import Family
    from eyeswap.data.official.fetch import FetchPlan
    from eyeswap.data.official.instruction_check import InstructionCheck
    from eyeswap.data.official.prepare import Inspection

_MOST_FOLDERS = 20
_MOST_WARNINGS = 3

app = typer.Typer(no_args_is_help=True, help="Data sets: what they are, get them, check what is on disk; make one.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A data set, a benchmark, or all.")]
Root = Annotated[Path, typer.Option("--root", help="Data root; files lie below DIR/download/FAMILY.", metavar="DIR")]
OpenImages = Annotated[bool, typer.Option("--check-images", help="Also decode every image and compare its size.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: eyeswap data list --root data")
def list_sets(root: Root = Path("data"), as_json: AsJson = False) -> None:
    """List the data sets that eyeswap reads, with licence and size, and which of their files are on disk."""
    import json

    from rich.table import Table

    from eyeswap.console import open_console
    from eyeswap.data.official.catalogue import look, sets_named
    from eyeswap.data.official.families import Family
    from eyeswap.data.official.instruction_check import described
    from eyeswap.data.official.prepare import Inspection

    found = [(one, look(one, root)) for one in sets_named("all")]
    if as_json:
        rows = [
            Inspection(one, files).as_json() if isinstance(one, Family) else described(one, files)
            for one, files in found
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("name", "benchmarks", "examples", "downloads", "licence", "on disk", title=f"below {root}")
    for one, files in found:
        if isinstance(one, Family):
            use, counts = ", ".join(one.benchmarks), [sum(counts.values()) for counts in one.counts]
        else:
            use, counts = "(training)", [sum(one.counts.values())]
        sizes = " + ".join(dict.fromkeys(source.size for source in one.sources if source.size)) or "not stated"
        here = f"{sum(file.exists for file in files)} of {len(files)}"
        table.add_row(one.name, use, " or ".join(f"{count:,}" for count in counts), sizes, one.licence, here)
    open_console().print(table)


@app.command(epilog="Example: eyeswap data fetch pope --root data")
def fetch(
    name: Name,
    root: Root = Path("data"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
) -> None:
    """Download the official files of a data set into their folders; what is there already is kept.

    A download that was cut goes on where it ended. Images that several sets share are downloaded once and linked.
    What only a person can get (a form, a page that asks) is named with what to do.
    """
    from eyeswap.data.official.catalogue import sets_named

    if fetch_sets(sets_named(name), root, yes):
        raise typer.Exit(1)


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

    What is missing is named with the place where it is published; `eyeswap data fetch` gets it. Index files go to
    DIR/datasets/FAMILY in the layout of the published evaluation suite; those that are there already are kept.
    """
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in slim.split(",")] if slim else []
    if 0 in sizes:
        raise SpecError(f"--slim {slim}: sizes are whole numbers above 0, such as 1024,8192")
    from eyeswap.data.official.catalogue import sets_named
    from eyeswap.data.official.families import Family

    families = [one for one in sets_named(name) if isinstance(one, Family)]
    if not families:
        raise SpecError(f"{name}: training data need no preparation; look at them with `eyeswap data check {name}`")
    _finish(_inspect(families, root, sizes, check_images, as_json), [], None, as_json)


@app.command(epilog="Example: eyeswap data check all --root data --check-images")
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A data set, a benchmark, all, or an instruction file.")
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Data root (data); of a FILE, the folder that image names are relative to (its own).",
        ),
    ] = None,
    check_images: OpenImages = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write missing and broken training images to FILE.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check official files, or instruction data of your own, before hours are spent on them; changes nothing.

    Benchmark files are read and compared with what was published. Of instruction data every record is checked, and its
    image is looked for and, with --check-images, decoded. Leaves with 1 if something is missing or differs.
    """
    from eyeswap.data.official.catalogue import sets_named
    from eyeswap.data.official.families import Family
    from eyeswap.data.official.instruction_check import check_instruction_file, check_training_set
    from eyeswap.progress import progress

    if Path(name).suffix == ".json" or Path(name).is_file():
        with progress() as board:
            own = check_instruction_file(Path(name), root or Path(name).parent, check_images, board)
        _finish([], [own], out, as_json)
        return
    root, sets = root or Path("data"), sets_named(name)
    if out is not None and (len(sets) > 1 or isinstance(sets[0], Family)):
        raise SpecError("--out lists the images of one instruction file: name a training set or a file")
    families = [one for one in sets if isinstance(one, Family)]
    found = _inspect(families, root, None, check_images, as_json)
    with progress() as board:
        trained = [check_training_set(one, root, check_images, board) for one in sets if not isinstance(one, Family)]
    _finish(found, trained, out, as_json)


def _inspect(
    families: list[Family], root: Path, sizes: list[int] | None, check_images: bool, as_json: bool
) -> list[Inspection]:
    """Inspect benchmark files and print each as soon as it is done."""
    from eyeswap.console import open_console
    from eyeswap.data.official.prepare import SUBSAMPLED_SIZES, inspect
    from eyeswap.progress import progress

    console = open_console()
    found = []
    with progress() as board:
        for family in families:
            own = None if sizes is None else [*sizes, *SUBSAMPLED_SIZES.get(family.name, ())]
            found.append(inspect(family, root, own, check_images, board))
            if not as_json:
                _print(found[-1], console)
    return found


def _finish(benchmarks: list[Inspection], trained: list[InstructionCheck], out: Path | None, as_json: bool) -> None:
    """Print what is not printed yet, write the list of images, and leave with 1 if something is missing or differs."""
    import json

    from eyeswap.console import open_console
    from eyeswap.data.official.instruction_check import write_unusable

    everything: list[Inspection | InstructionCheck] = [*benchmarks, *trained]
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in everything], indent=1))
    else:
        for one in trained:
            print_check(one, open_console())
    if out is not None:
        count = write_unusable(out, trained[0])
        typer.echo(f"{out}: {count:,} images", err=True)
    if any(one.complaints for one in everything):
        raise typer.Exit(1)


def _print(found: Inspection, console: Console) -> None:
    """Print one family: what it is, its files, its counts, what is wrong, what was written."""
    from rich.text import Text

    family = found.family
    title = Text.assemble((family.title, "bold"), f" ({', '.join(family.benchmarks)}): {family.about}")
    lines: list[str | Text] = [title, f"  licence: {family.licence}"]
    lines += [f"  {file_line(file)}" for file in found.files]
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
    verdict = [_complaint(line) for line in found.complaints] or [Text("  complete, as published", "green")]
    _print_lines(console, [*lines, *verdict])
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
    from eyeswap.errors import nearest

    if name != "digits":
        raise SpecError(f'unknown data set "{name}". {nearest(name, ["digits"])}')
    from eyeswap.data.digits.write import DigitsSize, num_scenes, write_digits
    from eyeswap.progress import progress

    size = DigitsSize(seed, train, val, turns)
    with progress() as board:
        digest = write_digits(out, size, board.task("draw the data set", num_scenes(size)).advance)
    typer.echo(f"data: {out}, digest {digest[:12]}")


def fetch_sets(sets: Sequence[DataSet], root: Path, yes: bool) -> list[str]:
    """Plan, ask, download; return what went wrong, one line each.

    Raises:
        SpecError: if nobody can be asked.
        EnvironmentProblem: if the disk has no room.
    """
    from eyeswap.data.official.fetch import check_plan_fits, fetch, plan_fetch

    for one in sets:
        typer.echo(f"{one.title} ({one.name}): {one.about}; licence: {one.licence}")
    plan = plan_fetch(sets, root)
    for line in _planned(plan):
        typer.echo(line)
    check_plan_fits(plan, root)
    reachable = [url for url in plan.downloads if url not in plan.unreachable]
    if reachable and not yes:
        if not sys.stdin.isatty():
            raise SpecError("nothing was downloaded; pass --yes to start")
        typer.confirm("Start?", abort=True)
    problems = fetch(plan, root)
    for problem in problems:
        typer.echo(f"failed: {problem}", err=True)
    if problems:
        typer.echo("run the same command again to go on with what failed", err=True)
    if reachable or plan.links:
        for one in sets:
            typer.echo(f"look at what is there now: eyeswap data check {one.name} --root {root}")
    return problems


def _planned(plan: FetchPlan) -> list[str]:
    lines = [f"here      {found.path}" for found in plan.here]
    lines += [f"link      {found.path} -> {target}" for found, target in plan.links]
    for url, wanted in plan.downloads.items():
        size = (plan.unreachable.get(url) and "no answer") or _size(plan.num_bytes.get(url))
        lines += [f"download  {found.path} <- {url} ({size})" for found in wanted]
    for found in plan.by_hand:
        lines.append(f"by hand   {found.path} <- {found.source.url}")
        lines.append(f"          {found.source.manual}")
    unknown = len(plan.downloads) - len(plan.num_bytes) - len(plan.unreachable)
    total = f"{_size(plan.total_bytes)} to download" + (f", and {unknown} of unknown size" if unknown else "")
    return [*lines, total if plan.downloads else "nothing to download"]


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "size unknown"
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def file_line(file: FoundFile) -> str:
    """Return what is known of a source: whether it is there and in which version, or where and how to get it."""
    source = file.source
    if file.exists:
        return f"found{f', {file.version}' if file.version else ''}".ljust(8) + f" {file.path}"
    size = f", {source.size}" if source.size else ""
    by_hand = f"; {source.manual}" if source.manual else ""
    return f"missing  {file.path}  <- {source.url}{size}{by_hand}"


def _complaint(line: str) -> Text:
    from rich.text import Text

    return Text.assemble("  ", ("!", "red"), f" {line}")


def _print_lines(console: Console, lines: Sequence[str | Text]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def print_check(found: InstructionCheck, console: Console) -> None:
    """Print what was found of an instruction file: its files, records, folders of images, what is wrong, what to do."""
    from rich.text import Text

    lines: list[str | Text] = [Text(str(found.path), "bold")]
    if found.data_set is not None:
        data_set = found.data_set
        lines = [Text.assemble((data_set.title, "bold"), f" ({data_set.name}): {data_set.about}")]
        lines.append(f"  licence: {found.data_set.licence}")
    lines += [f"  {file_line(file)}" for file in found.files]
    if found.preflight is not None:
        preflight = found.preflight
        shown = preflight.num_records - preflight.num_text_only
        lines.append(
            f"  {preflight.num_records:,} records ({shown:,} with an image, {preflight.num_text_only:,} text only), "
            f"{preflight.num_turns:,} turns"
        )
        worst_first = sorted(preflight.sources, key=lambda source: -len(source.missing) - len(source.undecodable))
        for source in worst_first[:_MOST_FOLDERS]:
            bad = f", {len(source.missing):,} missing" if source.missing else ""
            bad += f", {len(source.undecodable):,} undecodable" if source.undecodable else ""
            lines.append(f"  {source.folder}: {source.num_records:,} records, {source.num_images:,} images{bad}")
        if len(worst_first) > _MOST_FOLDERS:
            lines.append(f"  and {len(worst_first) - _MOST_FOLDERS:,} more folders; --json lists them all")
    lines += [f"  {one}" for one in found.boxes]
    if found.box_frame:
        lines.append(f"  to say so in a study: `box_frame: {found.box_frame}` in recipe.data")
    lines += [f"  {line}" for line in found.warnings[:_MOST_WARNINGS]]
    if len(found.warnings) > _MOST_WARNINGS:
        lines.append(f"  and {len(found.warnings) - _MOST_WARNINGS:,} more such records; --json lists them all")
    lines += [_complaint(line) for line in found.complaints]
    if found.remedy:
        lines.append(f"  {found.remedy}")
    if not found.complaints:
        looked = found.preflight is not None and found.preflight.decoded
        hint = "" if looked else "; --check-images also decodes every image"
        lines.append(Text.assemble(("  complete", "green"), hint))
    _print_lines(console, lines)
    console.print()
