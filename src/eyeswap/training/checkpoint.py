"""Exact resume: everything that decides the rest of a run, in one file that is either whole or absent.

A checkpoint holds the model, the optimiser, the next step and the recipe's digest; the data position follows from the
step, and there is no other randomness (the miniature LLM has no dropout). The file is written to a temporary name and
renamed, so a kill during the write leaves the previous one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyeswap.errors import CheckpointError
from eyeswap.files import atomic_path

FILE_NAME = "latest.pt"


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, next_step: int, digest: str
) -> None:
    """Write the state before step ``next_step``, replacing the previous checkpoint."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "next_step": next_step,
        "digest": digest,
    }
    with atomic_path(folder / FILE_NAME) as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, digest: str) -> int:
    """Restore model and optimiser from the last checkpoint, if there is one.

    Returns:
        The step to go on from; 0 without a checkpoint.

    Raises:
        CheckpointError: if the file is damaged or belongs to another recipe.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged archive raises many kinds
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: damaged ({reason}); delete it to start this run again") from None
    if state["digest"] != digest:
        raise CheckpointError(f"{path}: written by another recipe; use another --runs folder, or delete it")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["next_step"])
