"""`eyeswap data list|fetch|check|prepare|make`: official data sets, and the embedded one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption
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

app = typer.Typer(no_args_is_help=True, help="List, download and check data sets, or draw the embedded one.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A data set, a benchmark, or `all`.")]
Root = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", file_okay=False, help="Data root; files belong in DIR/download/FAMILY."),
]
CheckImages = Annotated[bool, typer.Option("--check-images", help="Also decode every image and compare its size.")]


@app.command("list", epilog="Example: eyeswap data list --root data")
def list_sets(root: Root = Path("data"), as_json: JsonOption = False) -> None:
    """List the supported data sets with licence and size, and how many of their files are on disk."""
    import json

    from rich.table import Table

    from eyeswap.console import open_console
    from eyeswap.data.official.catalogue import look, sets_named
    from eyeswap.data.official.families import Family
    from eyeswap.data.official.instruction_check import described
    from eyeswap.data.official.prepare import Inspection

    files_of_sets = [(data_set, look(data_set, root)) for data_set in sets_named("all")]
    if as_json:
        rows = [
            Inspection(data_set, files).as_json() if isinstance(data_set, Family) else described(data_set, files)
            for data_set, files in files_of_sets
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("name", "benchmarks", "examples", "downloads", "licence", "on disk", title=f"files below {root}")
    for data_set, files in files_of_sets:
        if isinstance(data_set, Family):
            use, counts = ", ".join(data_set.benchmarks), [sum(counts.values()) for counts in data_set.counts]
        else:
            use, counts = "(training)", [sum(data_set.counts.values())]
        sizes = " + ".join(dict.fromkeys(source.size for source in data_set.sources if source.size)) or "not stated"
        on_disk = f"{sum(file.exists for file in files)} of {len(files)}"
        examples = " or ".join(f"{count:,}" for count in counts)
        table.add_row(data_set.name, use, examples, sizes, data_set.licence, on_disk)
    open_console().print(table)


@app.command(epilog="Example: eyeswap data fetch pope --root data")
def fetch(
    name: Name,
    root: Root = Path("data"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
) -> None:
    """Download the official files of a data set into their places; existing files are kept.

    Interrupted downloads are resumed. Images that several sets share are downloaded once and linked. Files that must be
    downloaded by hand (behind a form, for example) are listed with instructions.
    """
    from eyeswap.data.official.catalogue import sets_named

    if fetch_sets(sets_named(name), root, yes):
        raise typer.Exit(1)


@app.command(epilog="Example: eyeswap data prepare vqav2 --root data")
def prepare(
    name: Name,
    root: Root = Path("data"),
    slim: Annotated[
        str,
        typer.Option(
            "--slim", metavar="LIST", help="Sizes of the slim sets, separated by commas; VQA v2 also gets 16384."
        ),
    ] = "1024,8192",
    check_images: CheckImages = False,
    as_json: JsonOption = False,
) -> None:
    """Check a benchmark's official files, and write its full, subsampled and slim index files.

    Missing files are listed with their source; `eyeswap data fetch` downloads them. Index files are written to
    DIR/datasets/FAMILY in the layout of the published evaluation suite; existing ones are kept.
    """
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in slim.split(",")] if slim else []
    if 0 in sizes:
        raise SpecError(f"--slim {slim}: sizes must be positive integers, such as 1024,8192")
    from eyeswap.data.official.catalogue import sets_named
    from eyeswap.data.official.families import Family

    families = [data_set for data_set in sets_named(name) if isinstance(data_set, Family)]
    if not families:
        raise SpecError(f"{name}: training data need no preparation; check them with `eyeswap data check {name}`")
    _finish(_inspect(families, root, sizes, check_images, as_json), [], None, as_json)


@app.command(epilog="Example: eyeswap data check all --root data --check-images")
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A data set, a benchmark, `all`, or an instruction file.")
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            file_okay=False,
            help="Data root, by default ./data. For a FILE: the folder of its image paths, by default its own.",
        ),
    ] = None,
    check_images: CheckImages = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="List the missing and undecodable training images in FILE."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check official files or your own instruction data before spending hours on them.

    Benchmark files are parsed and compared with the published counts. In instruction data every record is checked, and
    its image is looked up and, with --check-images, decoded. Changes nothing; exits with 1 if something is missing or
    differs.
    """
    from eyeswap.data.official.catalogue import sets_named
    from eyeswap.data.official.families import Family
    from eyeswap.data.official.instruction_check import check_instruction_file, check_training_set
    from eyeswap.progress import progress

    if Path(name).suffix == ".json" or Path(name).is_file():
        with progress() as board:
            checked = check_instruction_file(Path(name), root or Path(name).parent, check_images, board)
        _finish([], [checked], out, as_json)
        return
    root, sets = root or Path("data"), sets_named(name)
    if out is not None and (len(sets) > 1 or isinstance(sets[0], Family)):
        raise SpecError("--out lists the images of one instruction file: name a training set or a file")
    families = [data_set for data_set in sets if isinstance(data_set, Family)]
    inspections = _inspect(families, root, None, check_images, as_json)
    training_sets = [data_set for data_set in sets if not isinstance(data_set, Family)]
    with progress() as board:
        checks = [check_training_set(data_set, root, check_images, board) for data_set in training_sets]
    _finish(inspections, checks, out, as_json)


def _inspect(
    families: list[Family], root: Path, sizes: list[int] | None, check_images: bool, as_json: bool
) -> list[Inspection]:
    """Inspect benchmark files, and print the result of each family as soon as it is known."""
    from eyeswap.console import open_console
    from eyeswap.data.official.prepare import SUBSAMPLED_SIZES, inspect
    from eyeswap.progress import progress

    console = open_console()
    inspections = []
    with progress() as board:
        for family in families:
            all_sizes = None if sizes is None else [*sizes, *SUBSAMPLED_SIZES.get(family.name, ())]
            inspections.append(inspect(family, root, all_sizes, check_images, board))
            if not as_json:
                _print(inspections[-1], console)
    return inspections


def _finish(inspections: list[Inspection], checks: list[InstructionCheck], out: Path | None, as_json: bool) -> None:
    """Print what is not printed yet, write the list of images, and exit with 1 if something is missing or differs."""
    import json

    from eyeswap.console import open_console
    from eyeswap.data.official.instruction_check import write_unusable

    results: list[Inspection | InstructionCheck] = [*inspections, *checks]
    if as_json:
        typer.echo(json.dumps([result.as_json() for result in results], indent=1))
    else:
        for check in checks:
            print_check(check, open_console())
    if out is not None:
        count = write_unusable(out, checks[0])
        typer.echo(f"{out}: {count:,} images", err=True)
    if any(result.complaints for result in results):
        raise typer.Exit(1)


def _print(inspection: Inspection, console: Console) -> None:
    """Print one benchmark family: description, files, counts, index files and complaints."""
    from rich.text import Text

    family = inspection.family
    title = Text.assemble((family.title, "bold"), f" ({', '.join(family.benchmarks)}): {family.about}")
    lines: list[str | Text] = [title, f"  licence: {family.licence}"]
    lines += [f"  {file_line(file)}" for file in inspection.files]
    if inspection.counts:
        parts = " + ".join(f"{name} {count:,}".strip() for name, count in inspection.counts.items())
        total = sum(inspection.counts.values())
        published = sum(inspection.published.values())
        lines.append(f"  {total:,} examples ({parts}), published {published:,}; {inspection.num_images:,} images")
    if inspection.splits:
        lines.append("  also read: " + ", ".join(f"{name} {count:,}" for name, count in inspection.splits.items()))
    lines += _trait_lines(inspection.traits)
    outcomes = inspection.written
    if outcomes:
        kept, written = (sum(outcome == word for outcome in outcomes.values()) for word in ("kept", "written"))
        folder = f"datasets/{family.name}"
        lines.append(f"  index files in {folder}: {written} written, {kept} kept")
        lines += [
            f"  {folder}/{name}: {outcome}" for name, outcome in outcomes.items() if outcome not in ("written", "kept")
        ]
    verdict = [_complaint(line) for line in inspection.complaints] or [Text("  complete, as published", "green")]
    _print_lines(console, [*lines, *verdict])
    console.print()


@app.command(epilog="Example: eyeswap data make digits --out data/digits --train 400 --val 100")
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="digits, digits-coco or digits-ade20k.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder to write.")],
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Random seed of the scenes.")] = 0,
    train: Annotated[int, typer.Option("--train", min=1, metavar="N", help="Number of training images.")] = 4000,
    val: Annotated[int, typer.Option("--val", min=1, metavar="N", help="Number of validation images.")] = 400,
    turns: Annotated[int, typer.Option("--turns", min=1, metavar="N", help="Turns per conversation (of digits).")] = 10,
) -> None:
    """Draw the embedded data set and write it in the official formats.

    digits has conversations and benchmarks; digits-coco and digits-ade20k have boxes and label maps (`eyeswap adapt`).
    """
    from eyeswap.data.digits.dense import write_ade20k, write_coco
    from eyeswap.data.digits.write import DigitsSize, num_scenes, write_digits
    from eyeswap.errors import nearest
    from eyeswap.progress import progress

    dense = {"digits-coco": write_coco, "digits-ade20k": write_ade20k}
    if name in dense:
        with progress() as board:
            advance = board.task("drawing the data set", train + val).advance
            dense[name](out, {"train": train, "val": val}, seed, advance)
        typer.echo(f"data: {out}")
        return
    if name != "digits":
        raise SpecError(f'unknown data set "{name}". {nearest(name, ["digits", *dense])}')
    size = DigitsSize(seed, train, val, turns)
    with progress() as board:
        digest = write_digits(out, size, board.task("drawing the data set", num_scenes(size)).advance)
    typer.echo(f"data: {out}, digest {digest[:12]}")


def fetch_sets(sets: Sequence[DataSet], root: Path, yes: bool) -> list[str]:
    """Show the plan, ask for confirmation, download; return the failures, one line each.

    Raises:
        SpecError: if there is no terminal to ask for confirmation.
        EnvironmentProblem: if there is not enough disk space.
    """
    from eyeswap.data.official.fetch import check_plan_fits, fetch, plan_fetch

    for data_set in sets:
        typer.echo(f"{data_set.title} ({data_set.name}): {data_set.about}; licence: {data_set.licence}")
    plan = plan_fetch(sets, root)
    for line in _plan_lines(plan):
        typer.echo(line)
    check_plan_fits(plan, root)
    reachable = [url for url in plan.downloads if url not in plan.unreachable]
    if reachable and not yes:
        if not sys.stdin.isatty():
            raise SpecError("nothing was downloaded; pass --yes to start")
        typer.confirm("Start downloading?", abort=True)
    problems = fetch(plan, root)
    for problem in problems:
        typer.echo(f"failed: {problem}", err=True)
    if problems:
        typer.echo("run the same command again to retry what failed", err=True)
    if reachable or plan.links:
        for data_set in sets:
            typer.echo(f"to check the files: eyeswap data check {data_set.name} --root {root}")
    return problems


def _plan_lines(plan: FetchPlan) -> list[str]:
    from eyeswap.cli.tables import bytes_text

    lines = [f"exists    {file.path}" for file in plan.here]
    lines += [f"link      {file.path} -> {target}" for file, target in plan.links]
    for url, files in plan.downloads.items():
        num_bytes = plan.num_bytes.get(url)
        size = "size unknown" if num_bytes is None else bytes_text(num_bytes)
        size = "no answer" if plan.unreachable.get(url) else size
        lines += [f"download  {file.path} <- {url} ({size})" for file in files]
    for file in plan.by_hand:
        lines.append(f"by hand   {file.path} <- {file.source.url}")
        lines.append(f"          {file.source.manual}")
    unknown = len(plan.downloads) - len(plan.num_bytes) - len(plan.unreachable)
    total = f"{bytes_text(plan.total_bytes)} to download"
    total += f", and {unknown} files of unknown size" if unknown else ""
    return [*lines, total if plan.downloads else "nothing to download"]


def file_line(file: FoundFile) -> str:
    """Return one line about a source file: its path and version if it exists, otherwise where and how to get it."""
    source = file.source
    if file.exists:
        return f"found{f', {file.version}' if file.version else ''}".ljust(8) + f" {file.path}"
    size = f", {source.size}" if source.size else ""
    by_hand = f"; {source.manual}" if source.manual else ""
    return f"missing  {file.path}  <- {source.url}{size}{by_hand}"


def _complaint(line: str) -> Text:
    from rich.text import Text

    return Text.assemble("  ", ("!", "red"), f" {line}")


def _trait_lines(counts: Mapping[str, int]) -> list[str]:
    from eyeswap.data.preflight import describe_traits

    return [f"  {line}" for line in [describe_traits(counts)] if line]


def _print_lines(console: Console, lines: Sequence[str | Text]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def print_check(check: InstructionCheck, console: Console) -> None:
    """Print the check of an instruction file: files, records, image folders, complaints and remedy."""
    from rich.text import Text

    lines: list[str | Text] = [Text(str(check.path), "bold")]
    if check.data_set is not None:
        data_set = check.data_set
        lines = [Text.assemble((data_set.title, "bold"), f" ({data_set.name}): {data_set.about}")]
        lines.append(f"  licence: {data_set.licence}")
    lines += [f"  {file_line(file)}" for file in check.files]
    if check.preflight is not None:
        preflight = check.preflight
        num_with_image = preflight.num_records - preflight.num_text_only
        lines.append(
            f"  {preflight.num_records:,} records ({num_with_image:,} with an image, "
            f"{preflight.num_text_only:,} text only), {preflight.num_turns:,} turns"
        )
        worst_first = sorted(preflight.sources, key=lambda source: -len(source.missing) - len(source.undecodable))
        for source in worst_first[:_MOST_FOLDERS]:
            bad = f", {len(source.missing):,} missing" if source.missing else ""
            bad += f", {len(source.undecodable):,} undecodable" if source.undecodable else ""
            lines.append(f"  {source.folder}: {source.num_records:,} records, {source.num_images:,} images{bad}")
        if len(worst_first) > _MOST_FOLDERS:
            lines.append(f"  and {len(worst_first) - _MOST_FOLDERS:,} more folders; --json lists them all")
        lines += _trait_lines(preflight.traits)
    lines += [f"  {line}" for line in check.boxes]
    if check.box_frame:
        lines.append(f"  to declare this in a study: `box_frame: {check.box_frame}` in recipe.data")
    lines += [f"  {line}" for line in check.warnings[:_MOST_WARNINGS]]
    if len(check.warnings) > _MOST_WARNINGS:
        lines.append(f"  and {len(check.warnings) - _MOST_WARNINGS:,} more such records; --json lists them all")
    lines += [_complaint(line) for line in check.complaints]
    if check.remedy:
        lines.append(f"  {check.remedy}")
    if not check.complaints:
        decoded = check.preflight is not None and check.preflight.decoded
        hint = "" if decoded else "; --check-images also decodes every image"
        lines.append(Text.assemble(("  complete", "green"), hint))
    _print_lines(console, lines)
    console.print()
