"""Train low-rank adapters (LoRA, arXiv 2106.09685) instead of all weights of the LLM, with peft.

An adapter of rank ``r`` adds ``alpha / r * B @ A`` to the matrix of a linear layer, and only ``A`` and ``B`` are
trained. They are merged into the matrices when the model is saved, so that it can be loaded like any other.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eyeswap.errors import EnvironmentProblem

_SCALE = 2.0  # alpha / r
_NAME = "default"
_BASE, _A, _B = ".base_layer.", f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


def import_peft() -> Any:
    """Import peft.

    Raises:
        EnvironmentProblem: if it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise EnvironmentProblem("recipe.lora_rank needs peft: pip install 'eyeswap[lora]', or remove it") from None


def add_adapters(llm: Any, rank: int, seed: int) -> None:
    """Freeze an LLM and add adapters to every linear layer of its decoder, in place.

    Args:
        llm: a causal LM of transformers; its output head gets no adapter.
        rank: rank of the adapters; their alpha is twice the rank.
        seed: seed of the first factor; the second is initialized to zero, so that the LLM's output does not change.

    Raises:
        EnvironmentProblem: if peft is not installed.
    """
    peft = import_peft()
    llm.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=round(_SCALE * rank), lora_dropout=0.0, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _weights_without_data(llm):
            peft.inject_adapter_in_model(config, llm, adapter_name=_NAME)


@contextlib.contextmanager
def _weights_without_data(llm: nn.Module) -> Iterator[None]:
    """Let weights on the meta device look as if they were on the CPU: peft moves adapters to where their layer is."""
    on_meta = [
        (module, name, weight)
        for module in llm.modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.is_meta
    ]
    for module, name, weight in on_meta:
        number = torch.zeros((), dtype=weight.dtype)
        setattr(module, name, nn.Parameter(number.expand(weight.shape), requires_grad=False))
    try:
        yield
    finally:
        for module, name, weight in on_meta:
            setattr(module, name, weight)


def merged_name(name: str) -> str:
    """Return the name of the weight, in a model without adapters, that a tensor is a part of."""
    for adapter in (_A, _B):
        name = name.replace(adapter, ".weight")
    return name.replace(_BASE, ".")


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model with its adapters merged in, under the names of a model without adapters."""
    weights = {}
    for name, weight in state.items():
        if name.endswith((_A, _B)):
            continue
        layer, is_adapted, leaf = name.partition(_BASE)
        if is_adapted and leaf == "weight":
            weight = weight + _SCALE * (state[layer + _B] @ state[layer + _A])
        weights[f"{layer}.{leaf}" if is_adapted else name] = weight
    return weights
