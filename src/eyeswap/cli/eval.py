"""`eyeswap eval|score|ask RUN`: ask a trained VLM benchmarks or a question, and score its answers, also again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table

    from eyeswap.evaluation.benchmark import Mode
    from eyeswap.recipe import TestBoxFrame
    from eyeswap.results.averages import Weights

EXAMPLE = "Example: eyeswap eval runs/quickstart/vit/seed-7 --benchmarks vqav2,refcoco --subset slim"
_CHOICES = {
    "--split": ("eval", "train"),
    "--mode": ("study", "official"),
    "--box-frame": ("", "original", "study", "padded-square", "canvas"),
    "--precision": ("auto", "fp32", "bf16"),
    "--images": ("as-is", "blanked", "shuffled"),
}
_MOST_ERRORS = 5  # shown; scores.json has the number, predictions/*.parquet all of them


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or that of any saved VLM.")],
    benchmarks: Annotated[
        str, typer.Option("--benchmarks", help="Names, or YAML files of your own, by commas; the study's by default.")
    ] = "",
    subset: Annotated[
        str, typer.Option("--subset", help="slim (1024 of each part), a number, or full; the study's by default.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="eval, or train. Other test splits are benchmarks: refcoco-testA, ...")
    ] = "eval",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Root of the official folders; the study's by default.")
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="study: asked and scored as published; official: as the benchmarks' own.")
    ] = "study",
    box_frame: Annotated[
        str,
        typer.Option(
            "--box-frame", help="original, study, padded-square or canvas: where boxes are scored; as the run's study."
        ),
    ] = "",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Questions answered together; changes no answer.")] = 128,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, or auto: bf16 on a GPU.")] = "auto",
    images: Annotated[
        str,
        typer.Option("--images", help="as-is; blanked or shuffled show what the image is worth (eyeswap collapse)."),
    ] = "as-is",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the result; RUN/evaluations/... by default.")
    ] = None,
    show_prompts: Annotated[
        int, typer.Option("--show-prompts", min=0, metavar="N", help="Print N prompts of each benchmark, and stop.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a trained VLM; an interrupted evaluation goes on where it was.

    Under torchrun the processes share the work: torchrun --nproc-per-node 4 -m eyeswap.cli eval RUN
    """
    import json

    from eyeswap.console import open_console
    from eyeswap.errors import SpecError, nearest

    given = {
        "--split": split,
        "--mode": mode,
        "--box-frame": box_frame,
        "--precision": precision,
        "--images": images,
    }
    for option, value in given.items():
        if value not in _CHOICES[option]:
            raise SpecError(f"{option} {value}: {nearest(value, filter(None, _CHOICES[option]))}")

    from eyeswap.files import read_json
    from eyeswap.processes import join
    from eyeswap.progress import progress
    from eyeswap.runs.folder import RunFolder
    from eyeswap.study.evaluate import evaluate_run, evaluation_settings
    from eyeswap.study.evaluate import show_prompts as prompts_of

    names, settings = evaluation_settings(
        run,
        [name.strip() for name in benchmarks.split(",") if name.strip()],
        data=data,
        subset=subset,
        split=split,
        mode=mode,
        box_frame=box_frame,
        precision=precision,
        images=images,
    )
    if show_prompts:
        found = prompts_of(run, names, settings, show_prompts)
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n\n".join(map(_prompt, found)))
        return
    with join() as workers:
        with progress(open_console(stderr=True, quiet=not workers.is_first)) as board:
            folder = evaluate_run(run, names, settings, board, out, batch, workers)
        if not workers.is_first:
            return
    scores = read_json(RunFolder(folder).scores)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **scores}, indent=1, ensure_ascii=False))
        return
    _print_scores(folder, scores, settings.mode, open_console())


def _prompt(about: Mapping[str, Any]) -> str:
    """Return a prompt with a line above it that says what becomes of it."""
    wanted = " or ".join(about["choices"][:2]) + (" or ..." if len(about["choices"]) > 2 else "")
    if not about["choices"]:
        wanted = f"at most {about['max_new_tokens']} tokens"
    tokens = f"{about['visual_tokens']} visual tokens" if about["visual_tokens"] else "visual tokens"
    head = f"--- {about['benchmark']} {about['example_id']}, {about['image']} ({tokens} first), answered by {wanted}"
    return f"{head}\n{about['prompt']}"


def _print_scores(folder: Path, scores: dict[str, Any], mode: str, console: Console) -> None:
    from eyeswap.runs.folder import RunFolder

    _print_tables(f"{folder}, mode {mode}, percent", scores, console)
    if scores["errors"]:
        console.print(
            f"{scores['errors']:,} questions could not be asked or scored, and count as wrong:", highlight=False
        )
        for line in _errors(folder, scores):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"predictions: {RunFolder(folder).predictions}", highlight=False, markup=False, soft_wrap=True)


def _errors(folder: Path, scores: dict[str, Any]) -> list[str]:
    """Return the first few errors."""
    from eyeswap.evaluation.predictions import read_predictions

    lines = [
        f"{name} {row['example_id']}: {row['error']}"
        for name, about in scores["benchmarks"].items()
        if about["errors"]
        for row in read_predictions(folder, name).select(["example_id", "error"]).to_pylist()
        if row["error"] is not None
    ]
    more = [f"and {len(lines) - _MOST_ERRORS:,} more"] if len(lines) > _MOST_ERRORS else []
    return lines[:_MOST_ERRORS] + more


MODES: dict[str, Mode] = {"study": "study", "official": "official"}
WEIGHTS: dict[str, Weights] = {"counts": "counts", "published": "published"}
BOX_FRAMES: dict[str, TestBoxFrame] = {
    "original": "original",
    "study": "study",
    "padded-square": "padded-square",
    "canvas": "canvas",
}
SCORE_EXAMPLE = "Example: eyeswap score runs/quickstart/vit/seed-7 --mode official"
ASK_EXAMPLE = 'Example: eyeswap ask runs/quickstart/vmamba/seed-7 scene.png "How many digits are there?"'


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
    box_frame: Annotated[
        str, typer.Option("--box-frame", help="original, study, padded-square or canvas; as it was scored by default.")
    ] = "",
    details: Annotated[bool, typer.Option("--details", help="Also print every further metric.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score the stored predictions of a run again; nothing is written, no model is loaded."""
    import json

    from eyeswap.console import open_console
    from eyeswap.errors import SpecError, nearest

    given = ("--mode", mode, tuple(MODES)), ("--weights", weights, tuple(WEIGHTS))
    for option, value, allowed in (*given, ("--box-frame", box_frame, ("", *BOX_FRAMES))):
        if value not in allowed:
            raise SpecError(f"{option} {value}: {nearest(value, filter(None, allowed))}")
    from eyeswap.results.rescore import rescore

    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    content = rescore(run, MODES[mode], names, root, WEIGHTS[weights], BOX_FRAMES.get(box_frame))
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    _print_rescored(run, content, details, open_console())


def _print_tables(title: str, content: dict[str, Any], console: Console) -> None:
    console.print(scores_table(title, content))
    if (in_frames := readings_table(content)) is not None:
        console.print(in_frames)


def scores_table(title: str, content: dict[str, Any]) -> Table:
    """Return benchmarks and averages as a table; ``content`` is as ``scores.json``."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in ("benchmark", "metric"):
        table.add_column(name)
    for name in ("answered", "score", "95% interval", "baseline", "invalid", "errors"):
        table.add_column(name, justify="right")
    for entry in content["benchmarks"].values():
        answered = f"{entry['n']:,}" + (f" of {entry['num_examples']:,}" if entry["n"] < entry["num_examples"] else "")
        table.add_row(
            entry["title"],
            entry["metric"] + (f", {entry['box_frame']}" if "box_frame" in entry else ""),
            answered,
            *_numbers(entry),
            f"{entry['invalid_rate']:.1f}",
            str(entry["errors"]),
        )
    table.add_section()
    for name, entry in content["averages"].items():
        table.add_row(Text(name, "bold"), "", f"{entry['n']:,}", *_numbers(entry), "", "")
    return table


def readings_table(content: dict[str, Any]) -> Table | None:
    """Return the score of every box benchmark in each frame, the one that counts marked; None without boxes."""
    from rich.table import Table

    boxed = [entry for entry in content["benchmarks"].values() if "readings" in entry]
    if not boxed:
        return None
    names = list(boxed[0]["readings"])
    table = Table(title="boxes in every frame, percent; * counts", title_justify="left")
    table.add_column("benchmark")
    for name in names:
        table.add_column(name, justify="right")
    for entry in boxed:
        shown = ["not known" if (value := entry["readings"][name]) is None else f"{value:.2f}" for name in names]
        marks = ["*" if name == entry["box_frame"] else "" for name in names]
        table.add_row(entry["title"], *(value + mark for value, mark in zip(shown, marks, strict=True)))
    return table


def _print_rescored(run: Path, content: dict[str, Any], details: bool, console: Console) -> None:
    _print_tables(f"{run}, mode {content['mode']}, percent", content, console)
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


def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of a saved VLM.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="PNG",
            help="Where to save the picture with the box drawn; by default <image>-answer.png in this folder.",
        ),
    ] = None,
) -> None:
    """Ask a trained VLM about one image; a box is also given in pixels and drawn into a copy of the image."""
    from eyeswap.api import ask as ask_run
    from eyeswap.console import visible
    from eyeswap.errors import RunError

    answer = ask_run(run, image, question)
    typer.echo(visible(answer.text))
    if answer.box_px is not None:
        left, top, right, bottom = answer.box_px
        typer.echo(f"box: x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} pixels")
        target = save or Path(f"{image.stem}-answer.png")
        draw_box(image, answer.box_px, target)
        typer.echo(f"saved: {target}")
    elif save is not None:
        raise RunError(f"{save} was not written: the answer holds no box to draw")


def draw_box(image: Path, box_px: tuple[float, float, float, float], to: Path) -> None:
    """Write a PNG copy of an image with a box drawn into it; ``box_px`` is left, top, right, bottom."""
    from PIL import ImageDraw

    from eyeswap.files import atomic_path
    from eyeswap.images import open_picture

    picture = open_picture(image)
    width = max(1, round(max(picture.size) / 200))
    ImageDraw.Draw(picture).rectangle(box_px, outline=(230, 30, 60), width=width)
    with atomic_path(to) as temporary:
        picture.save(temporary, format="PNG")
