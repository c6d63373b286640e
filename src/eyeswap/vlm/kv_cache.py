"""Keys and values of a prefix, spread over the questions that continue it, in buffers with room to grow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 16  # tokens that a buffer grows by


def spread(prefix: DynamicCache, rows: Tensor, num_tokens: int, lacking: Tensor | None = None) -> Cache:
    """Return a cache whose row ``i`` continues row ``rows[i]`` of ``prefix``, without its last ``lacking[i]`` tokens.

    What a row has of the prefix stands at the end of its slots, so that all rows go on at the same one. The first
    ``lacking[i]`` slots of row ``i`` hold nothing of meaning and have to be masked.

    Args:
        prefix: the cache to continue; it is not changed.
        rows: ``[Q]`` row numbers, repeats allowed.
        num_tokens: length of what comes next; room for it is made at once.
        lacking: ``[Q]`` tokens at the end of the prefix that a row reads again; none by default.
    """
    lacking = torch.zeros_like(rows) if lacking is None else lacking
    return Cache(layers=[_RoomyLayer(layer.keys, layer.values, rows, lacking, num_tokens) for layer in prefix.layers])


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Drop all rows of a cache but ``rows``, ``[Q]``."""
    cache.reorder_cache(rows)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers carries no types
    """One layer; ``keys`` and ``values`` are ``[Q, heads, tokens, d]`` views of larger buffers."""

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
    """Return rows of ``past`` ``[I, heads, tokens, d]``, each moved right by what it lacks, with room for more.

    One gather of whole vectors, from ``past`` as a list of ``[I * heads * tokens]`` of them.
    """
    images, heads, length, width = past.shape
    slot = torch.arange(length + room, device=past.device)
    token = (slot - lacking[:, None]).clamp(0, length - 1)  # [Q, slots]; what is clamped is masked or overwritten
    head = torch.arange(heads, device=past.device)
    vector = (rows[:, None, None] * heads + head[:, None]) * length + token[:, None]  # [Q, heads, slots]
    return past.reshape(images * heads * length, width).index_select(0, vector.flatten()).view(*vector.shape, width)


def _roomy(past: Tensor, room: int) -> Tensor:
    """Return a copy of ``past`` ``[Q, heads, tokens, d]`` with room for more tokens."""
    rows, heads, length, width = past.shape
    buffer = past.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = past
    return buffer
