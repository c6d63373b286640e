"""`eyeswap models list|show|fetch|import|export`: the released VLM checkpoints of the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eyeswap.vlm.released.catalog import ReleasedModel

app = typer.Typer(no_args_is_help=True, help="Use the released VLM checkpoints of the study.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: eyeswap models list --json")
def list_all(as_json: AsJson = False) -> None:
    """List the released checkpoints with their published scores, weighted averages in percent."""
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
    name: Annotated[str, typer.Argument(metavar="ID", help="A public id, see `eyeswap models list`.")],
    as_json: AsJson = False,
) -> None:
    """Print all that is known of one released checkpoint, and the backbone it was trained with."""
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
    typer.echo(f"# weights of the backbone: {entry.licence}; of the LLM in the archive: Llama 2 community licence")
    typer.echo(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), nl=False)


@app.command(epilog="Example: eyeswap models fetch vmamba-s-in1k-224-s3 --out released")
def fetch(
    name: Annotated[str, typer.Argument(metavar="ID", help="A public id, see `eyeswap models list`.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for <ID>/config.json and its weights.")],
) -> None:
    """Get a released checkpoint (27 GB, twice that on disk): resumed after a cut, checked, unpacked."""
    from eyeswap.vlm.released.catalog import fetch_archive, released_model, unpack_archive

    model = released_model(name)
    typer.echo(f"checkpoint: {unpack_archive(fetch_archive(model), out / model.id)}")


@app.command("import", epilog="Example: eyeswap models import vmamba-s-in1k-224-s3 models/vmamba-s")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A public id, a .tar archive, or an unpacked folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    llm: Annotated[
        str | None,
        typer.Option(help="Folder or Hub name with config and tokenizer of the LLM; weights are not needed."),
    ] = None,
    tap: Annotated[str | None, typer.Option(help="Read the backbone elsewhere than the published code did.")] = None,
    geometry: Annotated[str | None, typer.Option(help="Show images otherwise than the published code did.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Check the archive or the weights file against this digest.")
    ] = None,
) -> None:
    """Turn a released checkpoint into a VLM that `eyeswap ask` and transformers open."""
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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `eyeswap models import` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
) -> None:
    """Turn an imported checkpoint back into the released layout, without loss."""
    from eyeswap.vlm.released.convert import export_released

    export_released(folder, out)
    typer.echo(f"exported: {out}")


def _unpacked(source: str, scratch: Path, sha256: str | None) -> tuple[Path, ReleasedModel | None]:
    """Return the folder of a public id, an archive or a folder, checked, and what the catalog says of it."""
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
        raise CheckpointError(f"{source}: no such folder or archive; ids are listed by `eyeswap models list`")
    model = released_model(source)
    return unpack_archive(fetch_archive(model), scratch / model.id), model
