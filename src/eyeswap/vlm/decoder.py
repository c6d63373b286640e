"""The layers of a causal LM, called alike whatever its kind, and what it keeps of earlier positions."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from eyeswap.errors import SpecError

_CACHES = ("cache", "past_key_values", "cache_params")  # newest releases of transformers first; the last is Mamba's


def cache_argument(llm: Any) -> str:
    """Return what an LLM calls its memory of earlier positions, as argument and in its output.

    Until transformers 5.23 that was ``past_key_values``, or ``cache_params`` for a Mamba; newer releases say ``cache``.

    Raises:
        SpecError: if it has none.
    """
    known = inspect.signature(llm.base_model.forward).parameters
    found = next((name for name in _CACHES if name in known), None)
    if found is None:
        raise SpecError(f"llm: a {llm.config.model_type} keeps its state in a form of its own, which is not supported")
    return found


_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def has_attention_alone(llm: Any) -> bool:
    """Return whether an LLM knows of earlier positions by their keys and values alone, a layer each.

    A Mamba has a state instead, other LLMs have both, or layers that share their keys.
    """
    kinds = set(getattr(llm.config, "layer_types", None) or ())
    shares = bool(getattr(llm.config, "num_kv_shared_layers", 0) or getattr(llm.config, "kv_sharing_modes", None))
    return not getattr(llm, "_is_stateful", False) and kinds <= _ATTENTION and not shares


class Decoder:
    """The layers of an LLM, called alike for every kind of LLM.

    Args:
        llm: a causal LM.
    """

    def __init__(self, llm: Any) -> None:
        self._layers, self._cache = llm.base_model, cache_argument(llm)
        self._has_positions = "position_ids" in inspect.signature(llm.base_model.forward).parameters

    def __call__(
        self, cache: Cache | None, mask: Tensor | None, positions: Tensor | None, **inputs: Tensor
    ) -> tuple[Tensor, Any]:
        """Read on from a cache; return the last hidden states ``[Q, T, D]``, and the cache with them.

        Args:
            cache: of what was read before; None makes one.
            mask: ``[Q, slots]``.
            positions: ``[Q, T]``, for LLMs that take them.
            **inputs: ``input_ids`` ``[Q, T]`` or ``inputs_embeds`` ``[Q, T, D]``.
        """
        known = {"attention_mask": mask, "position_ids": positions if self._has_positions else None, self._cache: cache}
        said = self._layers(use_cache=True, **{name: one for name, one in known.items() if one is not None}, **inputs)
        return said.last_hidden_state, said[self._cache]
