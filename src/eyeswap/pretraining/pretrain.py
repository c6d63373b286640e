"""Make one of the shipped miniature checkpoints again: ``eyeswap pretrain NAME``.

Beside each checkpoint stands a card: command, data, seed, minutes, accuracy, versions.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from eyeswap.backbones import catalog
from eyeswap.errors import SpecError, nearest
from eyeswap.files import write_json, write_safetensors
from eyeswap.pretraining.classification import ClassificationRecipe, pretrain_backbone
from eyeswap.pretraining.language import LanguageRecipe, pretrain_language_model
from eyeswap.progress import progress
from eyeswap.shipped import SHIPPED_LLM


def pretrainable() -> list[str]:
    """Return the names that `pretrain` accepts."""
    return [SHIPPED_LLM, *(name for name, entry in catalog.entries().items() if name.startswith("digits-"))]


def pretrain(name: str, out_dir: Path, console: Console | None = None) -> Path:
    """Train a miniature from scratch and write checkpoint and card.

    Args:
        name: ``digits-llm`` or a miniature backbone of the catalog.
        out_dir: folder that receives ``<name>.safetensors`` (a backbone) or ``<name>/`` (the LLM).
        console: where progress is shown.

    Returns:
        The checkpoint's path.

    Raises:
        SpecError: if there is no such miniature.
    """
    if name not in pretrainable():
        raise SpecError(f"pretrain: unknown miniature {name!r}. {nearest(name, pretrainable())}")
    torch.set_flush_denormal(True)
    make = _language_model if name == SHIPPED_LLM else _backbone
    return make(name, out_dir, console)


def _backbone(name: str, out_dir: Path, console: Console | None) -> Path:
    recipe, entry = ClassificationRecipe(), catalog.entry(name)
    torch.manual_seed(recipe.seed)
    network = entry.build()
    started = time.perf_counter()
    with progress(console) as board:
        task = board.task(f"pretrain {name}", recipe.num_steps)
        metrics = pretrain_backbone(
            network, entry.geometry, recipe, lambda step, loss: task.advance(1, note=f"loss {loss:.3f}")
        )
    path = out_dir / f"{name}.safetensors"
    half = {key: _halved(value) for key, value in network.state_dict().items()}
    write_safetensors(path, half, metadata={"format": "pt"})
    facts = {"data": "digits, classification by kind and colour", "parameters": network.num_parameters}
    _write_card(out_dir / f"{name}.card.json", name, asdict(recipe), metrics, started, facts)
    return path


def _language_model(name: str, out_dir: Path, console: Console | None) -> Path:
    recipe = LanguageRecipe()
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
    facts = {
        "data": "digits, scenes drawn in words and conversations about them, no image",
        "parameters": model.num_parameters(),
    }
    _write_card(folder / "card.json", name, asdict(recipe), metrics, started, facts)
    return folder


def _halved(value: torch.Tensor) -> torch.Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous()


def _write_card(
    path: Path,
    name: str,
    recipe: dict[str, Any],
    metrics: dict[str, float],
    started: float,
    facts: dict[str, Any],
) -> None:
    card = {
        "name": name,
        "command": f"eyeswap pretrain {name}",
        **facts,
        "seed": recipe["seed"],
        "recipe": recipe,
        "metrics": {key: round(value, 4) for key, value in metrics.items()},
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "licence": "Apache-2.0",
    }
    write_json(path, card)
