"""`eyeswap pretrain NAME`: make one of the shipped miniature checkpoints again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A miniature: digits-llm or a digits-* backbone.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint.")] = Path("checkpoints"),
) -> None:
    """Train a miniature backbone or LLM from scratch, with the recipe that made the shipped one."""
    from eyeswap.pretraining import pretrain as pretrain_miniature

    typer.echo(f"checkpoint: {pretrain_miniature(name, out)}")
