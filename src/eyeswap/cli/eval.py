"""`eyeswap eval|score RUN`: evaluate a trained VLM, or rescore its answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eyeswap.cli.options import JsonOption, TrustOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table

EXAMPLE = "Example: eyeswap eval runs/quickstart/vit/seed-7 --benchmarks vqav2,refcoco --subset slim"
SCORE_EXAMPLE = "Example: eyeswap score runs/quickstart/vit/seed-7 --mode official"
_MOST_ERRORS = 5  # printed; scores.json has the number, predictions/*.parquet all of them

BoxFrameOption = Annotated[
    Literal["original", "study", "padded-square", "canvas"] | None,
    typer.Option("--box-frame", help="Frame in which boxes are scored; by default that of the run's study."),
]


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of any saved VLM.")],
    benchmarks: Annotated[
        str,
        typer.Option(
            "--benchmarks",
            metavar="LIST",
            help="Names or YAML files of benchmarks, separated by commas; by default the study's.",
        ),
    ] = "",
    subset: Annotated[
        str,
        typer.Option(
            "--subset",
            metavar="SUBSET",
            help="slim (1024 examples per part), a number per part, or full; by default the study's.",
        ),
    ] = "",
    split: Annotated[
        Literal["eval", "train"],
        typer.Option("--split", help="Other test splits are benchmarks of their own, such as refcoco-testA."),
    ] = "eval",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", file_okay=False, help="Data root; by default the study's."),
    ] = None,
    mode: Annotated[
        Literal["study", "official"],
        typer.Option(
            "--mode", help="study: prompts and scores of the published study; official: those of each benchmark."
        ),
    ] = "study",
    box_frame: BoxFrameOption = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, metavar="N", help="Batch size; does not change any answer.")
    ] = 128,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option("--precision", help="auto: bf16 on a GPU, fp32 on a CPU.")
    ] = "auto",
    images: Annotated[
        Literal["as-is", "blanked", "shuffled"],
        typer.Option("--images", help="blanked or shuffled: measure how much the answers depend on the image."),
    ] = "as-is",
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", file_okay=False, help="Output folder; by default RUN/evaluations/..."),
    ] = None,
    show_prompts: Annotated[
        int, typer.Option("--show-prompts", min=0, metavar="N", help="Print N prompts of each benchmark and exit.")
    ] = 0,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a trained VLM on benchmarks.

    After an interruption the same command resumes the evaluation. On several GPUs the processes share the work:
    `torchrun --nproc-per-node 4 -m eyeswap.cli eval RUN`.
    """
    import json

    from eyeswap.console import open_console, progress_console
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
        box_frame=box_frame or "",
        precision=precision,
        images=images,
    )
    if show_prompts:
        prompts = prompts_of(run, names, settings, show_prompts)
        typer.echo(json.dumps(prompts, indent=1, ensure_ascii=False) if as_json else "\n\n".join(map(_prompt, prompts)))
        return
    with join(device) as workers:
        with progress(progress_console(stderr=True, quiet=not workers.is_first)) as board:
            folder = evaluate_run(run, names, settings, board, out, batch, workers, trusts_code=trust_code)
        if not workers.is_first:
            return
    scores = read_json(RunFolder(folder).scores)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **scores}, indent=1, ensure_ascii=False))
        return
    _print_scores(folder, scores, settings.mode, open_console())


def _prompt(about: Mapping[str, Any]) -> str:
    """Return a prompt under a heading that names its example and the form of the answer."""
    answer = " or ".join(about["choices"][:2]) + (" or ..." if len(about["choices"]) > 2 else "")
    if not about["choices"]:
        answer = f"at most {about['max_new_tokens']} tokens"
    tokens = f"{about['visual_tokens']} visual tokens" if about["visual_tokens"] else "visual tokens"
    head = f"--- {about['benchmark']} {about['example_id']}, {about['image']} ({tokens} first), answered by {answer}"
    return f"{head}\n{about['prompt']}"


def _print_scores(folder: Path, scores: dict[str, Any], mode: str, console: Console) -> None:
    from eyeswap.runs.folder import RunFolder

    _print_tables(f"{folder}, mode {mode}, percent", scores, console)
    if scores["errors"]:
        console.print(
            f"{scores['errors']:,} questions could not be asked or scored and count as wrong:", highlight=False
        )
        for line in _errors(folder, scores):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"predictions: {RunFolder(folder).predictions}", highlight=False, markup=False, soft_wrap=True)


def _errors(folder: Path, scores: dict[str, Any]) -> list[str]:
    """Return the first few errors, one line each."""
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


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, even with an unfinished evaluation.")],
    mode: Annotated[
        Literal["study", "official"],
        typer.Option("--mode", help="study: scores of the published study; official: those of each benchmark."),
    ] = "study",
    benchmarks: Annotated[
        str, typer.Option("--benchmarks", metavar="LIST", help="Only these benchmarks, separated by commas.")
    ] = "",
    root: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", file_okay=False, help="Data root, for predictions stored without their details."
        ),
    ] = None,
    weights: Annotated[
        Literal["counts", "published"],
        typer.Option("--weights", help="Weights of the averages: examples in this run, or in the published sets."),
    ] = "counts",
    box_frame: BoxFrameOption = None,
    details: Annotated[bool, typer.Option("--details", help="Also print all further metrics.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rescore the stored predictions of a run; nothing is written and no model is loaded."""
    import json

    from eyeswap.console import open_console
    from eyeswap.results.rescore import rescore

    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    content = rescore(run, mode, names, root, weights, box_frame)
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    _print_rescored(run, content, details, open_console())


def _print_tables(title: str, content: dict[str, Any], console: Console) -> None:
    console.print(scores_table(title, content))
    if (in_frames := readings_table(content)) is not None:
        console.print(in_frames)


def scores_table(title: str, content: dict[str, Any]) -> Table:
    """Return benchmarks and averages as a table; ``content`` has the form of ``scores.json``."""
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
    """Return a table of every box benchmark's score in each frame, or None if there are no boxes."""
    from rich.table import Table

    boxed = [entry for entry in content["benchmarks"].values() if "readings" in entry]
    if not boxed:
        return None
    names = list(boxed[0]["readings"])
    table = Table(title="boxes in every frame, percent; * is the reported score", title_justify="left")
    table.add_column("benchmark")
    for name in names:
        table.add_column(name, justify="right")
    for entry in boxed:
        scores = ["unknown" if (value := entry["readings"][name]) is None else f"{value:.2f}" for name in names]
        marks = ["*" if name == entry["box_frame"] else "" for name in names]
        table.add_row(entry["title"], *(score + mark for score, mark in zip(scores, marks, strict=True)))
    return table


def _print_rescored(run: Path, content: dict[str, Any], details: bool, console: Console) -> None:
    _print_tables(f"{run}, mode {content['mode']}, percent", content, console)
    for name, entry in content["benchmarks"].items():
        num_changed = entry["changed"]
        if num_changed and content["mode"] == "study":
            console.print(f"{name}: {num_changed:,} scores differ from those stored", highlight=False)
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
