"""Attention over a packed row: every position sees its own conversation alone.

transformers lets a model's attention be replaced by name, and hands down what its ``forward`` was given. So the packed
attention is registered once, a model is switched to it for as long as it trains, and the borders of the conversations
travel as ``cu_seq_lens_q``, the keyword that transformers uses for flash attention. On a GPU torch's own
variable-length kernel does the work; elsewhere the conversations are attended to one by one. Neither builds a mask.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from eyeswap.vlm.decoder import has_attention_alone

PACKED = "eyeswap_packed"
# Settings of attention that the packed form does not follow.
_SETTINGS = ("sliding_window", "attn_logit_softcapping", "attention_dropout", "attention_chunk_size")


def can_pack(llm: Any) -> bool:
    """Return whether an LLM's attention can be exchanged for the packed one with equal results."""
    plain = all(not getattr(llm.config, setting, None) for setting in _SETTINGS)
    return plain and has_attention_alone(llm) and bool(getattr(llm, "_supports_attention_backend", False))


@contextlib.contextmanager
def packed_attention(llm: Any) -> Iterator[None]:
    """Let an LLM attend within the conversations of packed rows, as long as the block lasts."""
    before = llm.config._attn_implementation
    AttentionInterface.register(PACKED, _attend)
    AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])  # none
    llm.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        llm.set_attn_implementation(before)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each conversation, as transformers calls it.

    Args:
        module: the attention layer.
        query: ``[1, H, T, d]``.
        key: ``[1, G, T, d]``, where groups of query heads may share one.
        value: ``[1, G, T, d]``.
        attention_mask: None.
        scaling: of the products.
        cu_seq_lens_q: ``[conversations + 1]`` int32, where each begins.
        max_length_q: positions of the longest conversation.
        **kwargs: not needed.

    Returns:
        ``[1, T, H, d]``.
    """
    assert cu_seq_lens_q is not None
    is_grouped = key.shape[1] != query.shape[1]
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        times = query.shape[1] // key.shape[1]
        q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))  # each [T, H, d]
        k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
        borders = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        out: Any = varlen_attn(q, k, v, *borders, scale=scaling, window_size=(-1, 0))  # no position to the right
        return out[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    each = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=is_grouped)
        for q, k, v in parts
    ]
    return torch.cat(each, dim=2).transpose(1, 2), None


COMPILER = "inductor"


def decoder_layers(llm: Any) -> list[nn.Module]:
    """Return the decoder layers of an LLM, by the names of classes that transformers keeps for this purpose.

    Where it names parts of a layer too (a Mamba's mixer), the layer around them is meant.
    """
    names = set(llm._no_split_modules or ())
    named = [module for module in llm.modules() if type(module).__name__ in names]
    inner = {id(part) for module in named for part in module.modules() if part is not module}
    return [module for module in named if id(module) not in inner]


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
