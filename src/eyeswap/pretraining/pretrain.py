"""Train one of the miniature models: ``eyeswap pretrain NAME``.

Each checkpoint comes with a card: command, data, seed, minutes, accuracy, versions. A backbone's training also leaves
snapshots at fractions of the target accuracy, so that studies can ask within one family whether accuracy predicts
scores.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import SpecError, nearest
from eyeswap.files import read_json, write_json, write_safetensors
from eyeswap.pretraining.backbone import BackbonePretraining
from eyeswap.pretraining.language import LLM_RECIPES, pretrain_language_model
from eyeswap.pretraining.recipes import RECIPES, ClassificationRecipe
from eyeswap.progress import progress

_WORKERS = 1  # processes that render images during training


def pretrainable() -> list[str]:
    """Return the names that `pretrain` accepts."""
    return [*LLM_RECIPES, *(name for name, entry in catalog.entries().items() if name.startswith("digits-"))]


def pretrain(name: str, out_dir: Path, console: Console | None = None) -> Path:
    """Train a miniature model and write its checkpoint and card.

    A killed backbone run resumes where it stopped; snapshots go to ``out_dir/snapshots``.

    Args:
        name: a miniature LLM (`LLM_RECIPES`) or backbone of the catalog.
        out_dir: output folder for ``<name>.safetensors`` (a backbone) or ``<name>/`` (an LLM).
        console: where progress is shown.

    Returns:
        The checkpoint's path.

    Raises:
        SpecError: if there is no such miniature model.
        CheckpointError: if ``out_dir`` holds an unfinished run with another recipe.
    """
    if name not in pretrainable():
        raise SpecError(f"pretrain: unknown miniature model {name!r}. {nearest(name, pretrainable())}")
    torch.set_flush_denormal(True)
    make = _language_model if name in LLM_RECIPES else _backbone
    return make(name, out_dir, console)


def _backbone(name: str, out_dir: Path, console: Console | None) -> Path:
    entry = catalog.entry(name)
    recipe = RECIPES[entry.family]
    torch.manual_seed(recipe.seed)
    network = entry.build()
    saved = out_dir / f"{name}.unfinished.pt"
    run = BackbonePretraining(network, entry.geometry, recipe, saved=saved, workers=_WORKERS)
    card = {
        "name": name,
        "command": f"eyeswap pretrain {name}",
        "data": "digits, classification by kind and colour",
        "parameters": network.num_parameters,
    }
    snapshots = Snapshots(out_dir / "snapshots", card, recipe)
    with progress(console) as board:
        task = board.task(f"pretrain {name}", recipe.num_steps, run.step)
        metrics = run.run(
            lambda step, loss: task.advance(1, note=f"loss {loss:.3f}, {run.accuracy_so_far}"),
            lambda step, accuracy: snapshots.consider(run.model.backbone, step, accuracy),
        )
    path = out_dir / f"{name}.safetensors"
    write_safetensors(path, halved(network), metadata={"format": "pt"})
    curve = [[step, round(accuracy, 4)] for step, accuracy in run.curve]
    _write_card(out_dir / f"{name}.card.json", card, asdict(recipe), metrics, run.seconds, {"curve": curve})
    saved.unlink(missing_ok=True)
    return path


def _language_model(name: str, out_dir: Path, console: Console | None) -> Path:
    recipe = LLM_RECIPES[name]
    started = time.perf_counter()
    with progress(console) as board:
        task = board.task(f"pretrain {name}", recipe.num_steps)
        model, tokenizer, metrics = pretrain_language_model(
            recipe, lambda step, loss: task.advance(1, note=f"loss {loss:.3f}")
        )
    folder = out_dir / name
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "eyeswap.json", {"system": ""})
    card = {
        "name": name,
        "command": f"eyeswap pretrain {name}",
        "data": "digits, scenes drawn in words and conversations about them, no image",
        "parameters": model.num_parameters(),
    }
    _write_card(folder / "card.json", card, asdict(recipe), metrics, time.perf_counter() - started, {})
    return folder


def _write_card(
    path: Path,
    card: dict[str, Any],
    recipe: dict[str, Any],
    metrics: dict[str, float],
    seconds: float,
    more: dict[str, Any],
) -> None:
    complete = {
        **card,
        "seed": recipe["seed"],
        "recipe": recipe,
        "metrics": {key: round(value, 4) for key, value in metrics.items()},
        **more,
        "minutes": round(seconds / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "licence": "Apache-2.0",
    }
    write_json(path, complete)


class Snapshots:
    """Keep, for each fraction of the target accuracy, the weights that come closest to it.

    Matrices are rounded to 8-bit floats (e4m3) and vectors to 16-bit floats, which halves the size of a checkpoint.
    """

    def __init__(self, folder: Path, card: dict[str, Any], recipe: ClassificationRecipe) -> None:
        self._folder, self._card, self._recipe = folder, card, recipe

    def consider(self, network: VisionBackbone, step: int, accuracy: float) -> None:
        """Write the network's weights for every fraction that no earlier accuracy was closer to."""
        for fraction in self._recipe.snapshots:
            path = self._folder / f"{self._card['name']}-at-{round(100 * fraction)}.safetensors"
            goal = fraction * self._recipe.target_accuracy
            card_path = path.with_suffix(".card.json")
            if card_path.exists():
                kept = read_json(card_path)["metrics"]["top1_accuracy"]
                if abs(kept - goal) <= abs(accuracy - goal):
                    continue
            write_safetensors(path, rounded(network), metadata={"format": "pt"})
            metrics = {"top1_accuracy": round(accuracy, 4)}
            write_json(card_path, {**self._card, "step": step, "metrics": metrics, "recipe": asdict(self._recipe)})


def halved(network: VisionBackbone) -> dict[str, Tensor]:
    """Return the network's state with floats rounded to 16 bits."""
    return {key: _cast(value, torch.float16) for key, value in network.state_dict().items()}


def rounded(network: VisionBackbone) -> dict[str, Tensor]:
    """Return the network's state with matrices rounded to 8-bit and vectors to 16-bit floats."""
    return {
        key: _cast(value, torch.float8_e4m3fn if value.ndim > 1 else torch.float16)
        for key, value in network.state_dict().items()
    }


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return (value.to(dtype) if value.is_floating_point() else value).contiguous()
