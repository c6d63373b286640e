"""`eyeswap probe`: what visual tokens, connector and LLM know; `eyeswap predictors`: which of it predicts scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import TrustOption

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.probing.labelled import LabelledImages
    from eyeswap.probing.probe import ProbeResult
    from eyeswap.progress import Progress
    from eyeswap.results.encoders import Found
    from eyeswap.results.predict import Prediction

EXAMPLE = "Example: eyeswap probe runs/quickstart/vmamba/seed-7 digits-vit --count 400"
PREDICTORS_EXAMPLE = "Example: eyeswap predictors studies/miniature/matched.yaml --results results/miniature"
_MOST_ROWS = 8  # of an average in the terminal
DataOption = Annotated[str, typer.Option("--data", help="digits (the miniature's scenes), or a COCO instances file.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", metavar="FOLDER", help="Folder of the images of a COCO file.")
]
CountOption = Annotated[int, typer.Option("--count", min=20, help="Most images to use.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of images, questions, folds and readouts.")]


def probe(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGETS...", help="Run folders, or names of backbones, in any mixture.")
    ],
    data: DataOption = "digits",
    images: ImagesOption = None,
    count: CountOption = 1000,
    layers: Annotated[
        str | None, typer.Option("--layers", help="LLM layers to look behind, such as 1,2,4; by default four.")
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the results.")] = Path("probes"),
    trust_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Read out what frozen representations know: is it there, which is it, how many are there, where is it.

    Linear and nonlinear readouts are fitted, cross-validated over images, on visual tokens, connector outputs and
    hidden states of the LLM, and compared with what the VLM itself answers to the same questions. Of a backbone alone
    the visual tokens are probed. Writes probe.json, probe.csv and probe.png for each target.
    """
    from eyeswap.console import open_console
    from eyeswap.probing.labelled import load_images
    from eyeswap.probing.probe import write_result
    from eyeswap.progress import progress

    chosen = _layers(layers)
    labelled = load_images(data, images, count, seed)
    results = []
    with progress() as board:
        for target in targets:
            result = _probe(target, labelled, board, chosen, seed, trusts_code=trust_code)
            write_result(result, out / result.name)
            results.append(result)
    if as_json:
        typer.echo(json.dumps([result.as_json() for result in results], indent=1, ensure_ascii=False))
        return
    console = open_console()
    for result in results:
        _show(result, console)
        console.print(f"written to {out / result.name}: probe.json, probe.csv, probe.png\n", highlight=False)


def _layers(text: str | None) -> list[int] | None:
    from eyeswap.errors import SpecError

    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--layers {text}: write numbers with commas between them, such as 1,2,4") from None


def _probe(
    target: str, images: LabelledImages, board: Progress, layers: list[int] | None, seed: int, *, trusts_code: bool
) -> ProbeResult:
    from eyeswap.backbones.weights import load_backbone
    from eyeswap.evaluation.ask import model_folder
    from eyeswap.planning.spec import kebab
    from eyeswap.probing.probe import probe_backbone, probe_model
    from eyeswap.processes import best_device
    from eyeswap.vlm.model import VisionLanguageModel

    folder = Path(target)
    if not folder.is_dir():
        backbone = load_backbone(target)
        return probe_backbone(kebab(target), backbone, images, board, device=best_device(), seed=seed)
    model = VisionLanguageModel.from_pretrained(model_folder(folder), trust_remote_code=trusts_code)
    model.eval().to(best_device())
    parts = folder.resolve().parts[-2:]
    return probe_model("-".join(parts), model, images, board, layers=layers, seed=seed)


def _show(result: ProbeResult, console: Console) -> None:
    from rich.table import Table

    from eyeswap.probing.questions import TASKS, TITLES

    table = Table(
        box=None, title=f"{result.name}: {result.num_images:,} images of {result.source}", title_justify="left"
    )
    table.add_column("site")
    table.add_column("readout")
    for task in TASKS:
        table.add_column(TITLES[task], justify="right")
    for site in result.sites:
        for readout in ("linear", "nonlinear", "answer"):
            readings = [result.at(site, task, readout) for task in TASKS]
            if any(readings):
                cells = [
                    f"{100 * reading.score.value:.1f} ({100 * reading.score.low:.0f}-{100 * reading.score.high:.0f})"
                    if reading else "" for reading in readings
                ]  # fmt: skip
                table.add_row(site, readout, *cells)
    chances = {reading.task: reading.chance for reading in result.readings}
    table.add_row(
        "best constant answer", "", *(f"{100 * chances[task]:.1f}" if task in chances else "" for task in TASKS)
    )
    console.print(table)
    for site, numbers in result.statistics.items():
        console.print(
            f"{site}: norm {numbers.norm:.1f} (spread {numbers.norm_spread:.2f}), effective rank "
            f"{numbers.effective_rank:.1f}, spatial autocorrelation {numbers.spatial_autocorrelation:.2f}",
            highlight=False,
        )
    aligned = "" if result.word_alignment is None else f"; largest cosine with a word {result.word_alignment:.2f}"
    console.print(f"correspondence with another view {100 * result.correspondence:.1f}%{aligned}", highlight=False)


def predictors(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDIES...", help="Study files with finished arms.")],
    results: Annotated[
        Path, typer.Option("--results", metavar="FOLDER", help="Folder of the studies' runs or exported results.")
    ] = Path("runs"),
    data: DataOption = "digits",
    images: ImagesOption = None,
    count: CountOption = 400,
    seed: SeedOption = 0,
    probes: Annotated[
        Path, typer.Option("--probes", metavar="FOLDER", help="Folder of the encoders' probes; those there are used.")
    ] = Path("probes"),
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the results.")] = Path("predictors"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Find out which number about an encoder, known before any training, predicts what a VLM scores with it.

    Every distinct encoder of the studies' finished arms is probed (see `eyeswap probe`), a minute or two each; then
    accuracy, size, readouts, token statistics and correspondence are compared with the scores, over encoders and on
    families left out. Run again, it goes on where it was. Writes predictors.json, encoders.csv and predictors.png.
    """
    from eyeswap.console import open_console
    from eyeswap.errors import DataError
    from eyeswap.planning.spec import load_study
    from eyeswap.probing.labelled import load_images
    from eyeswap.processes import best_device
    from eyeswap.progress import progress
    from eyeswap.report.figures.predict import draw
    from eyeswap.results.encoders import find_encoders, probe_encoders
    from eyeswap.results.predict import known_before, predict, write_predictions

    found = find_encoders([load_study(path) for path in studies], results)
    if not found.encoders:
        raise DataError("no arm is finished: run the studies first")
    labelled = load_images(data, images, count, seed)
    with progress() as board:
        probed = probe_encoders(found.encoders, labelled, probes, board, device=best_device(), seed=seed)
    known = [known_before(encoder, probe) for encoder, probe in zip(found.encoders, probed, strict=True)]
    predictions = predict(found.encoders, known, seed)
    settings = {"source": labelled.source, "num_images": len(labelled.images), "seed": seed}
    content = write_predictions(found, known, predictions, settings, out)
    draw(predictions, len(known), out / "predictors.png")
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    console = open_console()
    _show_predictions(found, predictions, console)
    console.print(f"written to {out}: predictors.json, encoders.csv, predictors.png", highlight=False)


def _show_predictions(found: Found, predictions: Sequence[Prediction], console: Console) -> None:
    from rich.table import Table

    from eyeswap.report.analysis.study import GROUP_TITLES
    from eyeswap.report.figures.predict import SHOWN

    families = sorted({encoder.family for encoder in found.encoders})
    for average in SHOWN:
        rows = [one for one in predictions if one.average == average and one.correlation.value is not None]
        if not rows:
            continue
        table = Table(
            box=None,
            title=f"{GROUP_TITLES[average]}: rank correlation over {len(found.encoders)} encoders",
            title_justify="left",
        )
        for name in ("predictor", "n", "correlation", "p (Holm)", "error", "of the mean", "more than accuracy"):
            table.add_column(name, justify="left" if name == "predictor" else "right")
        for one in rows[:_MOST_ROWS]:
            table.add_row(one.predictor, str(one.correlation.n), *_cells(one))
        console.print(table)
    console.print(
        "error: points, of a line fitted without the family that it predicts; beside it that of the other families' "
        f"mean. {len(families)} families: {', '.join(families)}; encoders of one family share most of their weights.",
        highlight=False,
    )
    for name, reason in found.left_out.items():
        console.print(f"left out: {name} ({reason})", highlight=False)


def _cells(one: Prediction) -> list[str]:
    found = one.correlation
    low, high = found.low, found.high
    between = "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"
    return [
        f"{found.value:+.2f}{between}",
        "-" if one.p is None else f"{one.p:.3f}",
        *("-" if error is None else f"{error:.1f}" for error in (one.error, one.plain_error)),
        "-" if one.lead is None else f"{one.lead.value:+.2f} [{one.lead.low:+.2f}, {one.lead.high:+.2f}]",
    ]
