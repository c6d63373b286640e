"""Low-rank adapters (LoRA, arXiv 2106.09685) in place of all weights of the LLM, through peft.

An adapter of rank ``r`` adds ``alpha / r * B @ A`` to the matrix of a linear layer; only ``A`` and ``B`` learn. When
training is done they are added into the matrices, so that a saved model is like any other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eyeswap.errors import EnvironmentProblem

_SCALE = 2.0  # alpha / r
_NAME = "default"
_BASE, _A, _B = ".base_layer.", f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


def import_peft() -> Any:
    """Return the library that makes adapters.

    Raises:
        EnvironmentProblem: if it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise EnvironmentProblem("recipe.lora_rank needs peft: pip install 'eyeswap[lora]', or leave it out") from None


def add_adapters(llm: Any, rank: int, seed: int) -> None:
    """Freeze an LLM, and put adapters on every linear layer of its decoder, in place.

    Args:
        llm: a causal LM of transformers; its last matrix stays without adapter.
        rank: of the adapters; their alpha is twice that.
        seed: draws their first factor; the second starts at zero, so that the LLM starts as it was.

    Raises:
        EnvironmentProblem: if peft is not installed.
    """
    peft = import_peft()
    llm.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=round(_SCALE * rank), lora_dropout=0.0, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, llm, adapter_name=_NAME)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model with its adapters added in, under the names of a model that never had any."""
    plain = {}
    for name, weight in state.items():
        if name.endswith((_A, _B)):
            continue
        layer, found, leaf = name.partition(_BASE)
        if found and leaf == "weight":
            weight = weight + _SCALE * (state[layer + _B] @ state[layer + _A])
        plain[f"{layer}.{leaf}" if found else name] = weight
    return plain
