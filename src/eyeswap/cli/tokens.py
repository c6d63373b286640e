"""`eyeswap tokens cache`: let a frozen backbone see each image once, for all runs to come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eyeswap.tokens.cost import TokenCost

app = typer.Typer(no_args_is_help=True, help="Keep the visual tokens of frozen backbones.")
_VERIFIED = 16
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@app.callback()
def options() -> None:
    """Keep the visual tokens of frozen backbones."""


@app.command(epilog="Example: eyeswap tokens cache --backbone digits-vmamba --data data/digits --out tokens --dry-run")
def cache(
    backbone: Annotated[str, typer.Option(metavar="NAME", help="A backbone, as a study file names it.")],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR|FILE", help="A data root, an instruction json, or a folder of images."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", envvar="EYESWAP_TOKENS", help="Where tokens are kept, for any backbone.")
    ],
    tap: Annotated[str | None, typer.Option(help="Another tap than the backbone's own.")] = None,
    geometry: Annotated[str | None, typer.Option(help="Another geometry, such as squash-224.")] = None,
    wiring: Annotated[str, typer.Option(help="controlled, or as-published in eval mode.")] = "controlled",
    weights: Annotated[Path | None, typer.Option(help="A weights file in place of the backbone's own.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost and save; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Compute the visual tokens of all images of some data once; studies read them with EYESWAP_TOKENS=DIR.

    Run it again after an interruption or with more data: what is stored is not computed again.
    """
    import json
    from dataclasses import asdict
    from typing import get_args

    import torch

    from eyeswap.backbones.weights import load_backbone
    from eyeswap.errors import SpecError, nearest
    from eyeswap.progress import progress
    from eyeswap.recipe import Wiring
    from eyeswap.tokens.cache import cache_tokens, open_store
    from eyeswap.tokens.cost import estimate_cost, spaced, verify

    if wiring not in get_args(Wiring):
        raise SpecError(f"--wiring {wiring}: {nearest(wiring, get_args(Wiring))}")
    root, images = images_of(data)
    chosen: Wiring = "as-published" if wiring == "as-published" else "controlled"
    loaded = load_backbone(backbone, weights, chosen, tap=tap, geometry=geometry)
    loaded.network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dry_run:
        cost = estimate_cost(out, loaded, root, images)
        derived = {"needed_bytes": cost.needed_bytes, "cost_s": cost.cost_s, "saved_s": cost.saved_s}
        typer.echo(json.dumps(asdict(cost) | derived, indent=1) if as_json else _told(cost, loaded.name))
        return
    with progress() as board:
        stored = cache_tokens(
            out, loaded, root, images, board.task(f"{loaded.name}: visual tokens", len(images)).advance
        )
    compared = verify(stored, loaded, root, spaced(images, _VERIFIED))
    store = open_store(out, loaded)
    facts = {
        "folder": str(store.folder),
        "images": len(images),
        "unreadable": stored.unreadable,
        "tokens": stored.tokens.shape[1],
        "width": stored.tokens.shape[2],
        "bytes": len(store) * store.row_bytes,
        "verified": compared,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(f"stored: {store.folder}, {len(store):,} images of {_size(store.row_bytes)}, {_size(facts['bytes'])}")
    typer.echo(f"verified: {compared} images computed again, equal to the bit")
    for reason in list(stored.unreadable.values())[:10]:
        typer.echo(f"unreadable: {reason}", err=True)
    if len(stored.unreadable) > 10:
        typer.echo(f"unreadable: {len(stored.unreadable) - 10} more; --json lists them all", err=True)


def _told(cost: TokenCost, name: str) -> str:
    """Return an estimate in words."""
    room = "" if cost.needed_bytes < cost.free_bytes else ": NOT ENOUGH"
    rows = [
        ("images", f"{cost.images:,}, of which {cost.stored:,} are known to be stored"),
        ("an image", f"{cost.tokens:,} tokens x {cost.width} x 2 bytes = {_size(cost.image_bytes)}"),
        ("cost, disk", f"{_size(cost.needed_bytes)} ({_size(cost.free_bytes)} free{room})"),
        ("cost, time", f"{_clock(cost.cost_s)} ({1 / cost.image_s:,.1f} images/s, measured on {cost.sampled} images)"),
        ("saves", f"{_clock(cost.saved_s)} of {name} in every later pass over these images"),
        ("", "(a further epoch, seed, connector or LLM; a first single run saves nothing)"),
    ]
    return "\n".join(f"{title:<11} {text}" for title, text in rows)


def _size(number: float) -> str:
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:,.1f} min"


def images_of(data: Path) -> tuple[Path, list[str]]:
    """Return the images that some data refer to.

    Args:
        data: an instruction file in the LLaVA format, whose images lie below its own folder; or a data root, of which
            the instruction file and all benchmarks at their official places are read; or any other folder of images.

    Returns:
        The folder that paths are relative to, and the paths, each once.

    Raises:
        DataError: if there is no such file, or no image.
    """
    from eyeswap.errors import DataError

    if data.is_file():
        root, images = data.parent, _trained(data, "")
    elif data.is_dir():
        root, images = data, _below_root(data) or _all_files(data)
    else:
        raise DataError(f"{data}: no such file or folder")
    if not images:
        raise DataError(f"{data}: refers to no image, and holds none")
    return root, list(dict.fromkeys(images))


def _trained(path: Path, image_folder: str) -> list[str]:
    from eyeswap.data.instruction import read_instructions

    found = (instruction.image for instruction in read_instructions(path, image_folder))
    return [image for image in found if image is not None]


def _below_root(root: Path) -> list[str]:
    from eyeswap.errors import MissingFileError
    from eyeswap.evaluation import BENCHMARKS
    from eyeswap.recipe import FolderData

    instruction = Path(FolderData(folder=str(root)).instruction)
    images = _trained(root / instruction, instruction.parent.as_posix()) if (root / instruction).is_file() else []
    for benchmark in BENCHMARKS.values():
        try:
            images += [example.image for example in benchmark.examples(root)]
        except MissingFileError:
            continue
    return images


def _all_files(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in found)
