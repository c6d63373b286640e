"""`eyeswap models list|show|fetch|import|export|push|pull`: published VLM checkpoints, and your own on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption

if TYPE_CHECKING:
    from eyeswap.vlm.released.catalog import ReleasedModel

app = typer.Typer(
    no_args_is_help=True, help="List, download and convert the published study's VLM checkpoints; share your own."
)

ModelId = Annotated[str, typer.Argument(metavar="ID", help="A model id from `eyeswap models list`.")]


@app.command("list", epilog="Example: eyeswap models list --json")
def list_all(as_json: JsonOption = False) -> None:
    """List the released checkpoints with their published scores (weighted averages, percent)."""
    from eyeswap.vlm.released.catalog import released_models

    models = list(released_models().values())
    if as_json:
        typer.echo(json.dumps([model.model_dump() for model in models], indent=1))
        return
    from rich.table import Column, Table

    from eyeswap.console import open_console

    right = [Column(name, justify="right") for name in ("tokens", "VQA", "localization", "overall")]
    table = Table(Column("id", no_wrap=True), "backbone", *right)
    for model in models:
        scores = (model.scores.vqa, model.scores.localization, model.scores.overall)
        table.add_row(model.id, model.backbone, f"{model.visual_tokens:,}", *(f"{score:.2f}" for score in scores))
    open_console().print(table)


@app.command(epilog="Example: eyeswap models show vmamba-s-in1k-224-s3")
def show(
    name: ModelId,
    as_json: JsonOption = False,
) -> None:
    """Print everything known about one released checkpoint and its backbone."""
    import yaml

    from eyeswap.backbones import catalog
    from eyeswap.vlm.released.catalog import REPOSITORY, released_model

    model = released_model(name)
    about = {**model.model_dump(), "repository": REPOSITORY, "archive": model.archive}
    if as_json:
        typer.echo(json.dumps(about, indent=1))
        return
    entry = catalog.entry(model.backbone).wired("as-published")
    typer.echo(f"# backbone as published: {entry.name}, tap {entry.tap}, {entry.geometry.describe()}")
    typer.echo(f"# licence of the backbone's weights: {entry.licence}; of the LLM in the archive: Llama 2 community")
    typer.echo(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), nl=False)


@app.command(epilog="Example: eyeswap models fetch vmamba-s-in1k-224-s3 --out released")
def fetch(
    name: ModelId,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="The checkpoint is written to DIR/ID.")
    ],
) -> None:
    """Download a released checkpoint (27 GB, needs twice that on disk), verify it and unpack it.

    An interrupted download is resumed.
    """
    from eyeswap.vlm.released.catalog import fetch_archive, released_model, unpack_archive

    model = released_model(name)
    typer.echo(f"checkpoint: {unpack_archive(fetch_archive(model), out / model.id)}")


@app.command("import", epilog="Example: eyeswap models import vmamba-s-in1k-224-s3 models/vmamba-s")
def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A model id, a .tar archive, or an unpacked folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    llm: Annotated[
        str | None,
        typer.Option(
            "--llm",
            metavar="NAME",
            help="Folder or Hub name of the LLM's config and tokenizer; needs no weights.",
        ),
    ] = None,
    tap: Annotated[
        str | None, typer.Option("--tap", metavar="TAP", help="Where to read the features, if not as published.")
    ] = None,
    geometry: Annotated[
        str | None, typer.Option("--geometry", metavar="NAME", help="Image geometry, if not as published.")
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="Digest that the archive or the weights file must have."),
    ] = None,
) -> None:
    """Convert a released checkpoint into a VLM that `eyeswap ask` and transformers can load."""
    import tempfile

    from eyeswap.progress import progress
    from eyeswap.vlm.released.convert import import_released

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch, progress() as board:
        folder, model = _unpacked(source, Path(scratch), sha256)
        task = board.task(f"import {folder.name} (MB)", 1)

        def advance(done: int, total: int) -> None:
            task.total = max(1, total // 10**6)
            task.advance(done // 10**6 - task.done)

        config = import_released(folder, out, llm, tap, geometry, advance)
    typer.echo(f"imported: {out} (backbone {config.backbone}, connector {config.connector}, wiring {config.wiring})")
    if model is not None and model.notes:
        typer.echo(f"note: {model.notes}")


@app.command(epilog="Example: eyeswap models export models/vmamba-s released/vmamba-s-again")
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder written by `eyeswap models import`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
) -> None:
    """Convert an imported checkpoint back into the released layout, losslessly."""
    from eyeswap.vlm.released.convert import export_released

    export_released(folder, out)
    typer.echo(f"exported: {out}")


@app.command(epilog="Example: eyeswap models push runs/quickstart/vmamba/seed-7 my-lab/digits-vmamba --card-only")
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Name on the Hub, organisation/model.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see a new repository.")] = False,
    card_only: Annotated[bool, typer.Option("--card-only", help="Print the model card, and upload nothing.")] = False,
) -> None:
    """Upload a run's model to the Hugging Face Hub, with a model card made from the run's records."""
    from eyeswap.integrations.model_hub import model_card, push_model
    from eyeswap.results.run import Run

    if card_only:
        typer.echo(model_card(Run(run), repository), nl=False)
        return
    typer.echo(f"pushed: {push_model(run, repository, private=not public)}")


@app.command(epilog="Example: eyeswap models pull my-lab/digits-vmamba models/digits-vmamba")
def pull(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Name on the Hub, organisation/model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
) -> None:
    """Fetch a VLM from the Hugging Face Hub into a folder that `ask`, `eval` and `serve` open."""
    from eyeswap.integrations.model_hub import pull_model

    pull_model(repository, out)
    typer.echo(f"pulled: {out}")


def _unpacked(source: str, scratch: Path, sha256: str | None) -> tuple[Path, ReleasedModel | None]:
    """Return the verified, unpacked folder of an id, archive or folder, and its catalog entry if it has one."""
    from eyeswap.errors import CheckpointError
    from eyeswap.vlm.released.catalog import (
        WEIGHTS_FILE,
        check_archive,
        fetch_archive,
        released_model,
        released_models,
        unpack_archive,
    )

    path = Path(source)
    if path.is_dir():
        if sha256 is not None:
            check_archive(path / WEIGHTS_FILE, sha256)
        return path, released_models().get(path.name)
    if path.is_file():
        model = released_models().get(path.stem)
        digest = sha256 or (model.sha256 if model else None)
        if digest is not None:
            check_archive(path, digest)
        return unpack_archive(path, scratch / path.stem), model
    if path.suffix == ".tar" or len(path.parts) > 1:
        raise CheckpointError(f"{source}: no such folder or archive; `eyeswap models list` lists the ids")
    model = released_model(source)
    return unpack_archive(fetch_archive(model), scratch / model.id), model
