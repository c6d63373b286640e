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
    seed: Annotated[int, typer.Option(help="Seed that draws the scenes.")] = 0,
    train: Annotated[int, typer.Option(help="Number of training images.")] = 4000,
    val: Annotated[int, typer.Option(help="Number of validation images.")] = 400,
    turns: Annotated[int, typer.Option(help="Question-answer turns in each conversation.")] = 10,
) -> None:
    """Draw the embedded data set and write it as the official sets are written."""
    from eyeswap.errors import SpecError, nearest

    if name != "digits":
        raise SpecError(f'unknown data set "{name}". {nearest(name, ["digits"])}')
    from eyeswap.data.digits import write_digits

    write_digits(out, seed=seed, num_train_images=train, num_val_images=val, turns=turns)
    typer.echo(f"data: {out}")
