"""`eyeswap serve RUN [RUN...]`: ask all arms at once, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: eyeswap serve runs/quickstart"


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
) -> None:
    """Open a page on which all runs answer the same question side by side, with boxes, probabilities and speed.

    Needs the extra `demo`. The page is reachable from this machine alone, unless --host says otherwise.
    """
    from eyeswap.integrations.demo import build_page, import_gradio, launch

    import_gradio()  # before models are loaded
    from eyeswap.api import load_vlm

    page = build_page({name: load_vlm(folder, device=device or None) for name, folder in find_models(runs).items()})
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
