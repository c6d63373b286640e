"""The decoder layers of an LLM: what is sharded one by one, and what is recomputed to save memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def decoder_layers(llm: Any) -> list[nn.Module]:
    """Return the decoder layers of an LLM, by the names of classes that transformers keeps for this purpose."""
    names = set(llm._no_split_modules or ())
    return [module for module in llm.modules() if type(module).__name__ in names]


@contextlib.contextmanager
def recomputed(llm: Any) -> Iterator[None]:
    """Keep only the input of every decoder layer for the backward pass, which computes the rest again."""
    layers = decoder_layers(llm)
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is underneath
