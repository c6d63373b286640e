"""`eyeswap ask|serve RUN`: ask a trained VLM one question, many at a prompt, or several VLMs at once in a browser."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption, TrustOption

if TYPE_CHECKING:
    from eyeswap.evaluation.ask import Answer
    from eyeswap.vlm.model import VisionLanguageModel

EXAMPLE = 'Example: eyeswap ask runs/quickstart/vmamba/seed-7 studies/scene.jpg "How many digits are there?"'
SERVE_EXAMPLE = "Example: eyeswap serve runs/quickstart"
PROMPT_HELP = """\
image PATH       look at another image
box EXPRESSION   locate something, such as: box the red digit
quit             leave (or Ctrl-D)
Anything else is a question about the image."""


def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of a saved VLM.")],
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="An image file.")] = None,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="The question, in quotes.")] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="EXPRESSION", help='Locate something, such as "the red digit".')
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="PNG",
            help="Where to save the image with the box drawn in; by default <image>-answer.png in this folder.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.")
    ] = "",
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a trained VLM about an image; a box is also given in pixels and drawn into a copy of the image.

    Without a question, opens a prompt that keeps the VLM loaded.
    """
    from eyeswap.api import load_vlm
    from eyeswap.errors import RunError, SpecError

    if question is not None and box is not None:
        raise SpecError("QUESTION and --box exclude each other: give one of them")
    if image is None and box is not None:
        raise SpecError("--box needs an image: eyeswap ask RUN IMAGE --box EXPRESSION")
    if question is None and box is None and (as_json or save is not None):
        raise SpecError(f"{'--json' if as_json else '--save'} needs a question: eyeswap ask RUN IMAGE QUESTION")
    if image is not None:
        _check_image(image)
    model = load_vlm(run, device=device or None, trust_remote_code=trust_code)
    if image is None or (question is None and box is None):
        converse(model, image)
        return
    answer = _answer(model, image, question, box)
    if as_json:
        typer.echo(json.dumps({"answer": answer.text, "box_px": answer.box_px}, ensure_ascii=False))
    if answer.box_px is None and save is not None:
        raise RunError(f"{save} was not written: the answer contains no box to draw")
    if not as_json:
        _show(answer, image, save or Path(f"{image.stem}-answer.png"))
    elif answer.box_px is not None and save is not None:
        draw_box(image, answer.box_px, save)


def converse(model: VisionLanguageModel, image: Path | None, read: Callable[[str], str] = input) -> None:
    """Answer questions line by line until the input ends; mistakes are told and do not end it."""
    from eyeswap.console import visible
    from eyeswap.errors import EyeswapError

    is_terminal = sys.stdin.isatty()
    if is_terminal:
        typer.echo(PROMPT_HELP)
    while True:
        try:
            line = read("> " if is_terminal else "").strip()
        except EOFError:
            return
        command, _, rest = line.partition(" ")
        if line in ("quit", "exit"):
            return
        try:
            if command == "image" and rest:
                path = Path(rest.strip().strip("'\"")).expanduser()
                _check_image(path)
                image = path
            elif line in ("help", "?"):
                typer.echo(PROMPT_HELP)
            elif line and image is None:
                typer.echo("no image yet; choose one with: image PATH")
            elif line and image is not None:
                is_box = command == "box" and bool(rest)
                answer = _answer(model, image, None if is_box else line, rest if is_box else None)
                _show(answer, image, Path(f"{image.stem}-answer.png"))
        except EyeswapError as error:
            typer.echo(f"error: {visible(str(error))}", err=True)


def _check_image(path: Path) -> None:
    """Refuse what is not an image before a model is loaded."""
    from eyeswap.images import open_image

    open_image(path)


def _answer(model: VisionLanguageModel, image: Path, question: str | None, box: str | None) -> Answer:
    from eyeswap.api import ask, locate

    return locate(model, image, box) if box is not None else ask(model, image, question or "")


def _show(answer: Answer, image: Path, target: Path) -> None:
    from eyeswap.console import visible

    typer.echo(visible(answer.text))
    if answer.box_px is None:
        return
    left, top, right, bottom = answer.box_px
    typer.echo(f"box: x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} pixels")
    draw_box(image, answer.box_px, target)
    typer.echo(f"saved: {target}")


def draw_box(image: Path, box_px: tuple[float, float, float, float], to: Path) -> None:
    """Write a PNG copy of an image with a box drawn into it; ``box_px`` is left, top, right, bottom."""
    from eyeswap.evaluation.ask import with_box
    from eyeswap.files import atomic_path
    from eyeswap.images import open_picture

    picture = with_box(open_picture(image), box_px)
    with atomic_path(to) as temporary:
        picture.save(temporary, format="PNG")


def serve(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs, saved VLMs, or folders with runs in them.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Where to listen. Whoever reaches that address can ask.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="A free one from 7860 on by default.")] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.")
    ] = "",
    trust_code: TrustOption = False,
) -> None:
    """Open a page on which all runs answer the same question side by side, with boxes, probabilities and speed.

    Needs the extra `demo`. The page is reachable from this machine alone, unless --host says otherwise.
    """
    from eyeswap.integrations.demo import build_page, import_gradio, launch

    import_gradio()  # before models are loaded
    from eyeswap.api import load_vlm

    models = {
        name: load_vlm(folder, device=device or None, trust_remote_code=trust_code)
        for name, folder in find_models(runs).items()
    }
    page = build_page(models)
    typer.echo(f"serving at {launch(page, host, port)} (Ctrl-C ends it)")
    page.block_thread()


def find_models(paths: list[Path]) -> dict[str, Path]:
    """Return the folders of trained VLMs by a short name; a folder stands for all runs below it.

    Raises:
        SpecError: if there are more than a page shows.
        DataError, RunError: if a path holds no trained VLM.
    """
    from eyeswap.errors import SpecError
    from eyeswap.evaluation.ask import model_folder
    from eyeswap.integrations.demo import MOST_MODELS
    from eyeswap.runs.folder import RunFolder, find_runs

    folders: list[Path] = []
    for path in paths:
        is_model = (path / "config.json").is_file() or RunFolder(path).is_begun
        folders += [path] if is_model else [run for run in find_runs([path]) if RunFolder(run).is_trained]
    if not 1 <= len(folders) <= MOST_MODELS:
        raise SpecError(f"a page shows 1 to {MOST_MODELS} trained models, found {len(folders)}; name the runs to ask")
    for folder in folders:
        model_folder(folder)
    names = [RunFolder(folder).name if RunFolder(folder).is_of_a_study else folder.name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): folder for name, folder in zip(names, folders, strict=True)
    }
