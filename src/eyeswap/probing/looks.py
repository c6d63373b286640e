"""Where in an image an answer comes from: the visual tokens that the LLM reads while it says the answer.

The weight of a visual token is the attention that the words of an answer pay to it, the mean over words, layers and
heads. An LLM without plain attention over all positions, such as a Mamba, has none to show: there the weight is the
cosine of the token's last hidden state and those of the answer's words, from the least to the most similar token.

A bright token was read, which is not the same as having caused the answer (Jain and Wallace, "Attention is not
Explanation", 2019).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from eyeswap.geometry import Box
from eyeswap.training.attention import can_pack
from eyeswap.vlm.text_ids import text_ids

if TYPE_CHECKING:
    from PIL import Image

    from eyeswap.vlm.model import VisionLanguageModel

Measure = Literal["attention", "similarity"]
_WATCHED = "eyeswap_watched"


@dataclass(frozen=True)
class Look:
    """The weight of each visual token that the LLM sees.

    Attributes:
        measure: what the weights are.
        grid: rows and columns of tokens.
        weights: ``[rows * columns]``, 0 to 1, the largest is 1.
        canvas: the area that the grid covers, in 0..1 of the image; beyond that where the canvas is padded.
    """

    measure: Measure
    grid: tuple[int, int]
    weights: tuple[float, ...]
    canvas: Box


def measure_of(model: VisionLanguageModel) -> Measure:
    """Return what can be shown of a VLM: attention, if its LLM has the plain kind, otherwise similarity."""
    return "attention" if can_pack(model.llm) else "similarity"


@torch.inference_mode()
def look(model: VisionLanguageModel, picture: Image.Image, prompt: str, answer: str) -> Look | None:
    """Return where in an image an answer comes from; None if its tokens have no place in the image, or it is empty.

    Args:
        model: the VLM, on any device.
        picture: the image.
        prompt: the whole text before the answer, as recorded with predictions.
        answer: what the VLM answered.
    """
    pixels, placement = model.processor.image_geometry.place(picture)
    grid = model.connector.seen_grid(model.backbone.network.token_grid(*pixels.shape[-2:]))
    said = text_ids(model.tokenizer, [answer], begins=False)[0]
    if grid is None or not said:
        return None
    tokens = model.encode(pixels[None].to(model.device))
    text = text_ids(model.tokenizer, [prompt], begins=True)[0] + said[:-1]  # the last word predicts no other
    ids = torch.tensor([model.insert_visual(text, tokens.shape[1])], device=model.device)
    start = int(model.config.bos_first)
    visual = slice(start, start + math.prod(grid))
    measure = measure_of(model)
    weights = (_attention if measure == "attention" else _similarity)(model, ids, tokens, len(said), visual)
    width, height = placement.canvas_size
    canvas = placement.convert((0, 0, width, height), "canvas", "image-unit")
    return Look(measure, grid, tuple((weights / weights.max().clamp_min(1e-12)).tolist()), canvas)


def _attention(model: VisionLanguageModel, ids: Tensor, tokens: Tensor, num_words: int, visual: slice) -> Tensor:
    """Return the attention to the visual tokens ``[N]``, the mean over words, layers and heads."""
    with _watched(model.llm, num_words) as seen:
        model.hidden_states(ids, tokens)
    return torch.stack(seen).mean(0)[visual].float().cpu()


def _similarity(model: VisionLanguageModel, ids: Tensor, tokens: Tensor, num_words: int, visual: slice) -> Tensor:
    """Return the mean cosine of visual tokens and words behind the last layer ``[N]``, moved to begin at 0."""
    states = F.normalize(model.hidden_states(ids, tokens)[0].float(), dim=-1)
    cosines = (states[visual] @ states[-num_words:].T).mean(1).cpu()
    return cosines - cosines.min()


@contextlib.contextmanager
def _watched(llm: Any, num_words: int) -> Iterator[list[Tensor]]:
    """Keep the attention that the last words pay to all positions, ``[T]`` a layer, for the duration of the block."""
    before: str = llm.config._attn_implementation
    seen: list[Tensor] = []

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Attend as transformers' functions do, ``[1, H, T, d]`` to ``[1, T, H, d]``; keys may be shared by heads."""
        heads_per_key = query.shape[1] // key.shape[1]
        seen.append(_last_rows(query[0], key[0].repeat_interleave(heads_per_key, dim=0), num_words, scaling))
        grouped = heads_per_key > 1
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2), None

    AttentionInterface.register(_WATCHED, attend)
    AttentionMaskInterface.register(_WATCHED, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])  # builds none
    llm.set_attn_implementation(_WATCHED)
    try:
        yield seen
    finally:
        llm.set_attn_implementation(before)


def _last_rows(query: Tensor, key: Tensor, count: int, scaling: float | None) -> Tensor:
    """Return the attention of the last ``count`` positions to all, the mean over them and heads: ``[T]``."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query[:, -count:] @ key.transpose(1, 2)).float() * scale  # [H, count, T]
    length = key.shape[1]
    positions = torch.arange(length, device=key.device)
    future = positions[None, :] > positions[length - count :, None]
    return scores.masked_fill(future, -math.inf).softmax(-1).mean((0, 1))
