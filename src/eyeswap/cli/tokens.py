"""`eyeswap tokens cache`: encode each image once with a frozen backbone, for all later runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eyeswap.cli.options import JsonOption

if TYPE_CHECKING:
    from eyeswap.tokens.cost import TokenCost

app = typer.Typer(no_args_is_help=True, help="Cache the visual tokens of frozen backbones.")
_NUM_VERIFIED = 16
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@app.callback()
def options() -> None:
    """Cache the visual tokens of frozen backbones."""


@app.command(epilog="Example: eyeswap tokens cache --backbone digits-vmamba --data data/digits --out tokens --dry-run")
def cache(
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="Catalog name, file.py:function, or timm:NAME.")
    ],
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR|FILE", help="A data root, an instruction file, or a folder of images."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", file_okay=False, envvar="EYESWAP_TOKENS", help="Token cache, for any backbone."
        ),
    ],
    tap: Annotated[
        str | None, typer.Option("--tap", metavar="TAP", help="Where to read the backbone's features.")
    ] = None,
    geometry: Annotated[
        str | None, typer.Option("--geometry", metavar="NAME", help="Image geometry, such as squash-224.")
    ] = None,
    wiring: Annotated[
        Literal["controlled", "as-published"], typer.Option("--wiring", help="as-published is cached in eval mode.")
    ] = "controlled",
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights file in place of the backbone's own.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="cpu or cuda; by default a GPU if there is one.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the cache would cost and save; write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the visual tokens of every image of a data set once.

    Studies read them when the environment variable EYESWAP_TOKENS is set to DIR. Run the command again after an
    interruption or with more data: stored images are not encoded again.
    """
    import json
    from dataclasses import asdict

    import torch

    from eyeswap.backbones.weights import load_backbone
    from eyeswap.cli.tables import bytes_text
    from eyeswap.progress import progress
    from eyeswap.tokens.cache import cache_tokens, open_store
    from eyeswap.tokens.cost import estimate_cost, spaced, verify

    root, images = images_of(data)
    loaded = load_backbone(backbone, weights, wiring, tap=tap, geometry=geometry)
    loaded.network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dry_run:
        cost = estimate_cost(out, loaded, root, images)
        derived = {"needed_bytes": cost.needed_bytes, "cost_s": cost.cost_s, "saved_s": cost.saved_s}
        typer.echo(json.dumps(asdict(cost) | derived, indent=1) if as_json else _cost_lines(cost, loaded.name))
        return
    with progress() as board:
        stored = cache_tokens(
            out, loaded, root, images, board.task(f"{loaded.name}: visual tokens", len(images)).advance
        )
    num_verified = verify(stored, loaded, root, spaced(images, _NUM_VERIFIED))
    store = open_store(out, loaded)
    facts = {
        "folder": str(store.folder),
        "images": len(images),
        "unreadable": stored.unreadable,
        "tokens": stored.tokens.shape[1],
        "width": stored.tokens.shape[2],
        "bytes": len(store) * store.row_bytes,
        "verified": num_verified,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    size, total = bytes_text(store.row_bytes), bytes_text(len(store) * store.row_bytes)
    typer.echo(f"stored: {store.folder}, {len(store):,} images of {size} each, {total}")
    typer.echo(f"verified: {num_verified} images encoded again, bit for bit the same")
    for reason in list(stored.unreadable.values())[:10]:
        typer.echo(f"unreadable: {reason}", err=True)
    if len(stored.unreadable) > 10:
        typer.echo(f"unreadable: {len(stored.unreadable) - 10} more; --json lists them all", err=True)


def _cost_lines(cost: TokenCost, name: str) -> str:
    """Return a cost estimate as text."""
    from eyeswap.cli.tables import bytes_text

    warning = "" if cost.needed_bytes < cost.free_bytes else ": NOT ENOUGH"
    rows = [
        ("images", f"{cost.images:,}, of which {cost.stored:,} are already stored"),
        ("per image", f"{cost.tokens:,} tokens x {cost.width} x 2 bytes = {bytes_text(cost.image_bytes)}"),
        ("disk", f"{bytes_text(cost.needed_bytes)} ({bytes_text(cost.free_bytes)} free{warning})"),
        ("time", f"{_clock(cost.cost_s)} ({1 / cost.image_s:,.1f} images/s, measured on {cost.sampled} images)"),
        ("saves", f"{_clock(cost.saved_s)} of {name} in every later pass over these images"),
        ("", "(another epoch, seed, connector or LLM; a single one-epoch run saves nothing)"),
    ]
    return "\n".join(f"{title:<10} {text}" for title, text in rows)


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:,.1f} min"


def images_of(data: Path) -> tuple[Path, list[str]]:
    """List the images of a data set.

    Args:
        data: an instruction file in LLaVA's format, with image paths relative to its own folder; or a data root, whose
            instruction file and benchmarks are read at their official places; or any other folder of images.

    Returns:
        The folder that the paths are relative to, and the paths without duplicates.

    Raises:
        DataError: if there is no such file or folder, or no image.
    """
    from eyeswap.errors import DataError

    if data.is_file():
        root, images = data.parent, _instruction_images(data, "")
    elif data.is_dir():
        root, images = data, _data_root_images(data) or _image_files(data)
    else:
        raise DataError(f"{data}: no such file or folder")
    if not images:
        raise DataError(f"{data}: contains and names no images")
    return root, list(dict.fromkeys(images))


def _instruction_images(path: Path, image_folder: str) -> list[str]:
    from eyeswap.data.instruction import read_instructions

    images = (instruction.image for instruction in read_instructions(path, image_folder))
    return [image for image in images if image is not None]


def _data_root_images(root: Path) -> list[str]:
    from eyeswap.errors import MissingFileError
    from eyeswap.evaluation import BENCHMARKS
    from eyeswap.recipe import FolderData

    instruction = Path(FolderData(folder=str(root)).instruction)
    images: list[str] = []
    if (root / instruction).is_file():
        images += _instruction_images(root / instruction, instruction.parent.as_posix())
    for benchmark in BENCHMARKS.values():
        try:
            images += [example.image for example in benchmark.examples(root)]
        except MissingFileError:
            continue
    return images


def _image_files(root: Path) -> list[str]:
    files = (path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in files)
