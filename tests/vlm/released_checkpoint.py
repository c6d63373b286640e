"""Checkpoints in the released layout at a small size, random, laid out as the authors' training code saves them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyeswap.vlm.llm import load_llm

CONNECTORS = {
    "linear": lambda d, D: nn.Linear(d, D),
    "no-align+gelu-mlp": lambda d, D: nn.Sequential(nn.Linear(d, D), nn.GELU(), nn.Linear(D, D)),
    "no-align+fused-gelu-mlp": lambda d, D: nn.Sequential(
        nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, D), nn.GELU(), nn.Linear(D, D)
    ),
}


def payload(llm: Path, arch: str, width: int) -> dict[str, Any]:
    """Tensors of connector and LLM, named as modules of the published code name them."""
    torch.manual_seed(0)
    model, _, _ = load_llm(llm)
    connector = CONNECTORS[arch](width, model.config.hidden_size)
    return {
        "model": {
            "projector": OrderedDict((f"projector.{key}", value) for key, value in connector.state_dict().items()),
            "llm_backbone": OrderedDict((f"llm.{key}", value) for key, value in model.state_dict().items()),
        }
    }


def config(backbone: str, arch: str, **changes: Any) -> dict[str, Any]:
    """A dump of the published training configuration, shortened."""
    model = {
        "model_id": f"{backbone}+7b-vicuna",
        "arch_specifier": arch,
        "vision_backbone_id": backbone,
        "llm_backbone_id": "vicuna-v15-7b",
        "image_resize_strategy": "letterbox",
        "llm_max_length": 2048,
        "finetune_epochs": 1,
        "enable_gradient_checkpointing": True,
    }
    return {"model": {**model, **changes}, "stage": "finetune", "seed": 7, "trackers": ["jsonl", "wandb"]}


def write_official(
    folder: Path, llm: Path, backbone: str = "digits-vit", arch: str = "no-align+gelu-mlp", **changes: Any
) -> Path:
    """Write a released checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    top = {key: changes.pop(key) for key in list(changes) if key.startswith("vmamba_")}
    (folder / "config.json").write_text(json.dumps({**config(backbone, arch, **changes), **top}))
    torch.save(payload(llm, arch, 128), folder / "checkpoints" / "latest-checkpoint.pt")
    return folder
