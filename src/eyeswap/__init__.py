"""Swap the vision encoder of a VLM, keep everything else fixed, and measure what the encoder did.

Importing the package is light: torch is loaded when one of its names is first used.

Example:
    >>> import eyeswap
    >>> backbone = eyeswap.load_backbone("digits-vmamba")
    >>> backbone.token_grid
    (8, 8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyeswap import ops
    from eyeswap.backbones.weights import LoadedBackbone, load_backbone

__all__ = ["LoadedBackbone", "load_backbone", "ops"]

_HOMES = {"load_backbone": "eyeswap.backbones.weights", "LoadedBackbone": "eyeswap.backbones.weights"}


def __getattr__(name: str) -> Any:
    """Import what is asked for by name."""
    if name == "ops":
        return importlib.import_module("eyeswap.ops")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'eyeswap' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
