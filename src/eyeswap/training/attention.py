"""Changes to an LLM's layers during training: packed attention, recomputation and compilation.

In a packed row every position attends only to its own conversation. transformers lets a model's attention be replaced
by name and passes on keywords of ``forward``. So packed attention is registered once, a model is switched to it during
training, and the borders of the conversations are passed as ``cu_seq_lens_q``, the keyword that transformers uses for
flash attention. On a GPU torch's variable-length kernel is used; elsewhere each conversation is attended separately.
Neither builds a mask.
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
# Attention settings that packed attention does not implement.
_SETTINGS = ("sliding_window", "attn_logit_softcapping", "attention_dropout", "attention_chunk_size")


def can_pack(llm: Any) -> bool:
    """Return whether packed attention gives the same results as an LLM's own attention."""
    is_plain = all(not getattr(llm.config, setting, None) for setting in _SETTINGS)
    return is_plain and has_attention_alone(llm) and bool(getattr(llm, "_supports_attention_backend", False))


@contextlib.contextmanager
def packed_attention(llm: Any) -> Iterator[None]:
    """Switch an LLM to packed attention for the duration of the block."""
    before = llm.config._attn_implementation
    AttentionInterface.register(PACKED, _attend)
    AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])  # builds none
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
    """Attend causally within each conversation; the signature is that of transformers' attention functions.

    Args:
        module: the attention layer.
        query: ``[1, H, T, d]``.
        key: ``[1, G, T, d]``; groups of query heads may share a key head.
        value: ``[1, G, T, d]``.
        attention_mask: None.
        scaling: scale of the dot products.
        cu_seq_lens_q: ``[conversations + 1]`` int32 offset of each conversation.
        max_length_q: positions of the longest conversation.
        **kwargs: not used.

    Returns:
        ``[1, T, H, d]``.
    """
    assert cu_seq_lens_q is not None
    is_grouped = key.shape[1] != query.shape[1]
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        group_size = query.shape[1] // key.shape[1]
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # each [T, H, d]
        k, v = k.repeat_interleave(group_size, dim=1), v.repeat_interleave(group_size, dim=1)
        borders = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        out: Any = varlen_attn(q, k, v, *borders, scale=scaling, window_size=(-1, 0))  # causal: nothing to the right
        return out[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    conversations = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=is_grouped)
        for q, k, v in conversations
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


COMPILER = "inductor"


def decoder_layers(llm: Any) -> list[nn.Module]:
    """Return the decoder layers of an LLM, found by the class names in transformers' ``_no_split_modules``.

    If it also lists parts of a layer (a Mamba's mixer), only the layer around them is returned.
    """
    names = set(llm._no_split_modules or ())
    modules = [module for module in llm.modules() if type(module).__name__ in names]
    inner = {id(part) for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if id(module) not in inner]


@contextlib.contextmanager
def recomputed(llm: Any, how: bool | Literal["elementwise"]) -> Iterator[None]:
    """Recompute activations in the backward pass instead of storing them, for the duration of the block.

    Args:
        llm: a causal LM.
        how: True stores only the input of every decoder layer; ``elementwise`` also the results of its matrix products
            and its attention, which saves about half of the memory and costs little time; False stores everything.
    """
    layers = decoder_layers(llm) if how else []
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "elementwise":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _stored_operators())
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, **options)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # uncovers the method of the class


@contextlib.contextmanager
def compiled(llm: Any, enabled: bool) -> Iterator[None]:
    """Compile every decoder layer with `torch.compile` for the duration of the block, if enabled.

    Rows of any length share one compilation. Enter this context before `recomputed`.
    """
    layers = decoder_layers(llm) if enabled else []
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=COMPILER, dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # uncovers the method of the class


def _stored_operators() -> list[Any]:
    """Return the operators whose results cost more to recompute than to store."""
    attention = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
    names = ("mm", "addmm", "bmm", "baddbmm", *(f"_scaled_dot_product_{name}" for name in attention))
    varlen = [torch.ops.torch_attn._varlen_attn.default] if hasattr(torch.ops.torch_attn, "_varlen_attn") else []
    return [getattr(torch.ops.aten, name).default for name in names] + varlen
