"""The decoder layers of an LLM: what is sharded one by one, recomputed to save memory, compiled to save time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

COMPILER = "inductor"


def decoder_layers(llm: Any) -> list[nn.Module]:
    """Return the decoder layers of an LLM, by the names of classes that transformers keeps for this purpose."""
    names = set(llm._no_split_modules or ())
    return [module for module in llm.modules() if type(module).__name__ in names]


@contextlib.contextmanager
def recomputed(llm: Any, how: bool | Literal["elementwise"]) -> Iterator[None]:
    """Compute again in the backward pass what would fill the memory until then, as long as the block lasts.

    Args:
        llm: a causal LM.
        how: True keeps the input of every decoder layer alone; ``elementwise`` also what its matrix products and its
            attention gave, which saves half of the memory and costs little time; False keeps everything.
    """
    layers = decoder_layers(llm) if how else []
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "elementwise":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _costly())
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, **options)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is underneath


@contextlib.contextmanager
def compiled(llm: Any, wanted: bool) -> Iterator[None]:
    """Let `torch.compile` fuse what happens inside of every decoder layer, as long as the block lasts, if wanted.

    Rows may have any length without being compiled anew. Enter it before `recomputed`.
    """
    layers = decoder_layers(llm) if wanted else []
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=COMPILER, dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the class's own is underneath


def _costly() -> list[Any]:
    """Return the operators whose results are worth their memory."""
    attention = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
    names = ("mm", "addmm", "bmm", "baddbmm", *(f"_scaled_dot_product_{name}" for name in attention))
    varlen = [torch.ops.torch_attn._varlen_attn.default] if hasattr(torch.ops.torch_attn, "_varlen_attn") else []
    return [getattr(torch.ops.aten, name).default for name in names] + varlen
