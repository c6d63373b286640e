"""Keys and values of a shared prefix, spread over the questions that continue it.

transformers' own cache copies everything it holds at every token, by concatenation; here each layer has a buffer
with room for the tokens to come.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 16  # tokens that a buffer grows by


def spread(prefix: DynamicCache, rows: Tensor, num_tokens: int) -> Cache:
    """Return a cache whose row ``i`` continues row ``rows[i]`` of ``prefix``, rows ``[Q]``.

    Args:
        prefix: the cache to continue; it is not changed.
        rows: ``[Q]`` row numbers, repeats allowed.
        num_tokens: length of what comes next; room for it is made at once.
    """
    return Cache(layers=[_RoomyLayer(layer.keys, layer.values, rows, num_tokens) for layer in prefix.layers])


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Drop all rows of a cache but ``rows``, ``[Q]``."""
    for layer in cache.layers:
        layer.keep_rows(rows)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers carries no types
    """One layer; ``keys`` and ``values`` are ``[Q, heads, tokens, d]`` views of larger buffers."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, room: int) -> None:
        super().__init__()
        self.is_initialized, self.dtype, self.device = True, keys.dtype, keys.device
        self._length = keys.shape[-2]
        self._keys, self._values = (_roomy(past.index_select(0, rows), room) for past in (keys, values))
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

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but ``rows``, ``[Q]``."""
        self._keys, self._values = (_roomy(past.index_select(0, rows), _ROOM) for past in (self.keys, self.values))
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in (self._keys, self._values))


def _roomy(past: Tensor, room: int) -> Tensor:
    """Return a copy of ``past`` ``[Q, heads, tokens, d]`` with room for more tokens."""
    rows, heads, length, width = past.shape
    buffer = past.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = past
    return buffer
