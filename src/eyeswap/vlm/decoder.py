"""One way to call the layers of any causal LM, and to pass it the cache of earlier positions."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from eyeswap.errors import SpecError

# Names of the cache, newest release of transformers first; until 5.23 it was ``cache_params`` in a Mamba.
_CACHES = ("cache", "past_key_values", "cache_params")


def cache_argument(llm: Any) -> str:
    """Return the name of the cache among an LLM's arguments and outputs.

    Raises:
        SpecError: if it has none.
    """
    arguments = inspect.signature(llm.base_model.forward).parameters
    name = next((name for name in _CACHES if name in arguments), None)
    if name is None:
        raise SpecError(f"llm: a {llm.config.model_type} keeps its state outside a transformers cache; not supported")
    return name


_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def has_attention_alone(llm: Any) -> bool:
    """Return whether the cache of an LLM is nothing but keys and values, separate for each layer.

    A Mamba has a state instead; other LLMs have both, or layers that share their keys and values.
    """
    kinds = set(getattr(llm.config, "layer_types", None) or ())
    shares = bool(getattr(llm.config, "num_kv_shared_layers", 0) or getattr(llm.config, "kv_sharing_modes", None))
    return not getattr(llm, "_is_stateful", False) and kinds <= _ATTENTION and not shares


class Decoder:
    """The layers of any causal LM, without its output layer.

    Args:
        llm: the causal LM.
    """

    def __init__(self, llm: Any) -> None:
        self._layers, self._cache = llm.base_model, cache_argument(llm)
        self._has_positions = "position_ids" in inspect.signature(llm.base_model.forward).parameters

    def __call__(
        self, cache: Cache | None, mask: Tensor | None, positions: Tensor | None, **inputs: Tensor
    ) -> tuple[Tensor, Any]:
        """Continue from a cache; return the last hidden states ``[Q, T, D]`` and the extended cache.

        Args:
            cache: of earlier positions; None starts a new one.
            mask: ``[Q, slots]``.
            positions: ``[Q, T]``; not passed to LLMs that do not take them.
            **inputs: ``input_ids`` ``[Q, T]`` or ``inputs_embeds`` ``[Q, T, D]``.
        """
        positions = positions if self._has_positions else None
        options = {"attention_mask": mask, "position_ids": positions, self._cache: cache}
        passed = {name: value for name, value in options.items() if value is not None}
        output = self._layers(use_cache=True, **passed, **inputs)
        return output.last_hidden_state, output[self._cache]
