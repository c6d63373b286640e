"""Prefill: how an LLM reads the prompts of a batch so that no prompt's result depends on the others.

If the cache is only keys and values, the prefix that all prompts share is prefilled once per image, and each question
continues from there (`SharedPrefix`). Rows are right-aligned: a row with a shorter question reads the end of the prefix
again, so its keys are contiguous however the LLM measures distance (positions, biases, or a sliding window over slots).

An LLM with a state, or with another kind of cache, reads every prompt from its beginning (`WholePrompts`), prompts of
equal length together, so that nothing is ever padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from eyeswap.vlm.decoder import Decoder
from eyeswap.vlm.model import VisionLanguageModel

_ROOM = 16  # tokens that a buffer of keys and values grows by


class Prompt(NamedTuple):
    """A prompt: the row of its image in the batch, and its token ids without visual tokens."""

    row: int
    ids: list[int]


class Reading(NamedTuple):
    """Prompts after prefill.

    Attributes:
        hidden: ``[Q, D]``, the last hidden state at the end of each prompt.
        cache: of each prompt.
        mask: ``[Q, slots]``, 0 at unused slots of the cache; None if all are used.
        positions: ``[Q]`` position of the first answer token.
    """

    hidden: Tensor
    cache: Cache
    mask: Tensor | None
    positions: Tensor


class SharedPrefix:
    """The common beginning of all prompts, prefilled once per image.

    Args:
        model: the VLM.
        decoder: its LLM.
        visual_tokens: ``[I, N, vision_width]``.
        ids: token ids that all prompts begin with.
    """

    def __init__(self, model: VisionLanguageModel, decoder: Decoder, visual_tokens: Tensor, ids: list[int]) -> None:
        self._model, self._decoder, self._num_ids = model, decoder, len(ids)
        num_images, num_visual = visual_tokens.shape[:2]
        with_image = torch.tensor(model.insert_visual(ids, num_visual), dtype=torch.long, device=visual_tokens.device)
        self._embedded = model.embed(with_image.expand(num_images, -1), visual_tokens)  # [I, P, D]
        self._cache = DynamicCache()
        if self._embedded.shape[1]:
            decoder(self._cache, None, None, inputs_embeds=self._embedded)

    def read(self, prompts: Sequence[Prompt]) -> Reading:
        """Continue from the prefix with the rest of each prompt."""
        device, before = self._embedded.device, self._embedded.shape[1]
        suffixes = [prompt.ids[self._num_ids :] for prompt in prompts]
        longest = max(map(len, suffixes))
        rows = torch.tensor([prompt.row for prompt in prompts], device=device)
        lacking = torch.tensor([longest - len(ids) for ids in suffixes], device=device)  # [Q]
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in suffixes], device=device)  # [Q, T]
        embedded = self._model.get_input_embeddings()(padded)  # [Q, T, D]
        # Right-aligned: the first `lacking` columns of a row are the last positions of the prefix, read again.
        place = before - lacking[:, None] + torch.arange(longest, device=device)  # [Q, T], from the first token
        if before:
            again = self._embedded[rows[:, None], place.clamp(0, before - 1)]
            embedded = torch.where((place < before)[..., None], again, embedded)
        slots = torch.arange(before + longest, device=device)
        mask = (slots >= lacking[:, None]).long()  # [Q, P + T]
        cache = spread(self._cache, rows, longest, lacking)
        hidden, cache = self._decoder(cache, mask, place.clamp(min=0), inputs_embeds=embedded)
        return Reading(hidden[:, -1], cache, mask, place[:, -1] + 1)


class WholePrompts:
    """Prompts about some images, read from their first token.

    Args:
        model: the VLM.
        decoder: its LLM.
        visual_tokens: ``[I, N, vision_width]``.
    """

    def __init__(self, model: VisionLanguageModel, decoder: Decoder, visual_tokens: Tensor) -> None:
        self._model, self._decoder, self._visual_tokens = model, decoder, visual_tokens

    def read(self, prompts: Sequence[Prompt]) -> Reading:
        """Read prompts of equal length."""
        device = self._visual_tokens.device
        rows = torch.tensor([prompt.row for prompt in prompts], device=device)
        num_visual = self._visual_tokens.shape[1]
        ids = torch.tensor([self._model.insert_visual(prompt.ids, num_visual) for prompt in prompts], device=device)
        embedded = self._model.embed(ids, self._visual_tokens[rows])  # [Q, N + T, D]
        hidden, cache = self._decoder(None, None, None, inputs_embeds=embedded)
        return Reading(hidden[:, -1], cache, None, torch.full_like(rows, embedded.shape[1]))


def spread(prefix: DynamicCache, rows: Tensor, num_tokens: int, lacking: Tensor | None = None) -> Cache:
    """Return a cache whose row ``i`` is row ``rows[i]`` of ``prefix`` without its last ``lacking[i]`` tokens.

    Rows are right-aligned, so that all continue at the same slot. The first ``lacking[i]`` slots of row ``i`` are
    unused and must be masked.

    Args:
        prefix: the cache to continue; not changed.
        rows: ``[Q]`` row numbers, repeats allowed.
        num_tokens: number of tokens to be appended next; room for them is allocated now.
        lacking: ``[Q]`` tokens at the end of the prefix that a row will read again; none by default.
    """
    lacking = torch.zeros_like(rows) if lacking is None else lacking
    return Cache(layers=[_RoomyLayer(layer.keys, layer.values, rows, lacking, num_tokens) for layer in prefix.layers])


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers carries no types
    """Keys and values of one layer, ``[Q, heads, tokens, d]`` views of larger buffers: appending rarely copies."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, lacking: Tensor, room: int) -> None:
        super().__init__()
        self.is_initialized, self.dtype, self.device = True, keys.dtype, keys.device
        self._length = keys.shape[-2]
        self._keys, self._values = (_shifted(past, rows, lacking, room) for past in (keys, values))
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values ``[Q, heads, new, d]``; return all of them, ``[Q, heads, tokens, d]``."""
        end = self._length + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            room = end - self._length + _ROOM
            self._keys, self._values = _roomy(self.keys, room), _roomy(self.values, room)
        self._keys[:, :, self._length : end] = key_states
        self._values[:, :, self._length : end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows ``beam_idx``, ``[Q]``, in their order."""
        self._keys, self._values = (_roomy(past.index_select(0, beam_idx), _ROOM) for past in (self.keys, self.values))
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in (self._keys, self._values))


def _shifted(past: Tensor, rows: Tensor, lacking: Tensor, room: int) -> Tensor:
    """Return rows of ``past`` ``[I, heads, tokens, d]``, each shifted right by what it lacks, with room for more.

    This is a single gather of vectors of width ``d``, from ``past`` flattened to ``[I * heads * tokens, d]``.
    """
    images, heads, length, width = past.shape
    slot = torch.arange(length + room, device=past.device)
    token = (slot - lacking[:, None]).clamp(0, length - 1)  # [Q, slots]; clamped slots are masked or overwritten
    head = torch.arange(heads, device=past.device)
    vector = (rows[:, None, None] * heads + head[:, None]) * length + token[:, None]  # [Q, heads, slots]
    return past.reshape(images * heads * length, width).index_select(0, vector.flatten()).view(*vector.shape, width)


def _roomy(past: Tensor, room: int) -> Tensor:
    """Return a copy of ``past`` ``[Q, heads, tokens, d]`` with room for more tokens."""
    rows, heads, length, width = past.shape
    buffer = past.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = past
    return buffer
