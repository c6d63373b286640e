"""Snapshots of a backbone on its way: what the studies of "does accuracy predict?" compare within one family."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.files import read_json, write_json, write_safetensors
from eyeswap.pretraining.recipes import ClassificationRecipe


class Snapshots:
    """Keep, for each share of the target accuracy, the weights that came closest to it.

    Matrices are rounded to 8-bit floats (e4m3) and vectors to 16 bits: half a checkpoint's size.
    """

    def __init__(self, folder: Path, card: dict[str, Any], recipe: ClassificationRecipe) -> None:
        self._folder, self._card, self._recipe = folder, card, recipe

    def consider(self, network: VisionBackbone, step: int, accuracy: float) -> None:
        """Write the network's weights for every share that no earlier accuracy was closer to."""
        for share in self._recipe.snapshots:
            path = self._folder / f"{self._card['name']}-at-{round(100 * share)}.safetensors"
            goal = share * self._recipe.target_accuracy
            card_path = path.with_suffix(".card.json")
            if card_path.exists():
                before = read_json(card_path)["metrics"]["top1_accuracy"]
                if abs(before - goal) <= abs(accuracy - goal):
                    continue
            write_safetensors(path, rounded(network), metadata={"format": "pt"})
            metrics = {"top1_accuracy": round(accuracy, 4)}
            write_json(card_path, {**self._card, "step": step, "metrics": metrics, "recipe": asdict(self._recipe)})


def halved(network: VisionBackbone) -> dict[str, Tensor]:
    """Return the network's tensors, of any shape, as 16-bit floats."""
    return {key: _cast(value, torch.float16) for key, value in network.state_dict().items()}


def rounded(network: VisionBackbone) -> dict[str, Tensor]:
    """Return the network's tensors, of any shape: matrices as 8-bit floats, vectors as 16-bit floats."""
    return {
        key: _cast(value, torch.float8_e4m3fn if value.ndim > 1 else torch.float16)
        for key, value in network.state_dict().items()
    }


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return (value.to(dtype) if value.is_floating_point() else value).contiguous()
