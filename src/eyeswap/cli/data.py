"""`eyeswap data make digits --out DIR`: write the embedded data set in the official formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make data sets.")


@app.callback()
def options() -> None:
    """Make data sets."""


@app.command(epilog="Example: eyeswap data make digits --out data/digits --train 400 --val 100")
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set: digits.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed that draws the scenes.")] = 0,
    train: Annotated[int, typer.Option(min=1, help="Number of training images.")] = 4000,
    val: Annotated[int, typer.Option(min=1, help="Number of validation images.")] = 400,
    turns: Annotated[int, typer.Option(min=1, help="Question-answer turns in each conversation.")] = 10,
) -> None:
    """Draw the embedded data set and write it as the official sets are written."""
    from eyeswap.errors import SpecError, nearest

    if name != "digits":
        raise SpecError(f'unknown data set "{name}". {nearest(name, ["digits"])}')
    from eyeswap.data.digits.write import DigitsSize, num_scenes, write_digits
    from eyeswap.progress import progress

    size = DigitsSize(seed, train, val, turns)
    with progress() as board:
        digest = write_digits(out, size, board.task("draw the data set", num_scenes(size)).advance)
    typer.echo(f"data: {out}, digest {digest[:12]}")
