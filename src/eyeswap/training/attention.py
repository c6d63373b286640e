"""Attention over a packed row: every position sees its own conversation alone.

transformers lets a model's attention be replaced by name, and hands down what its ``forward`` was given. So the packed
attention is registered once, a model is switched to it for as long as it trains, and the borders of the conversations
travel as ``cu_seq_lens_q``, the keyword that transformers uses for flash attention. On a GPU torch's own
variable-length kernel does the work; elsewhere the conversations are attended to one by one. Neither builds a mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

PACKED = "eyeswap_packed"
# Settings of attention that the packed form does not follow.
_SETTINGS = ("sliding_window", "attn_logit_softcapping", "attention_dropout", "attention_chunk_size")


def can_pack(llm: Any) -> bool:
    """Return whether an LLM's attention can be exchanged for the packed one with equal results."""
    plain = all(not getattr(llm.config, setting, None) for setting in _SETTINGS)
    return plain and bool(getattr(llm, "_supports_attention_backend", False))


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
