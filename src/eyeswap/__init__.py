"""Swap the vision encoder of a VLM, keep everything else fixed, and measure what the encoder did.

Importing the package is fast: torch and other dependencies are loaded when one of its names is first used.

Example:
    >>> import eyeswap
    >>> backbone = eyeswap.load_backbone("digits-vmamba")
    >>> backbone.token_grid
    (8, 8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from eyeswap import torchvision_operators

if TYPE_CHECKING:
    from eyeswap import ops
    from eyeswap.api import analyse, ask, compare, evaluate, load_runs, load_study, load_vlm, locate, run_study
    from eyeswap.backbones.weights import LoadedBackbone, load_backbone

__all__ = [
    "LoadedBackbone",
    "analyse",
    "ask",
    "compare",
    "evaluate",
    "load_backbone",
    "load_runs",
    "load_study",
    "load_vlm",
    "locate",
    "ops",
    "run_study",
]

torchvision_operators.install()

_WEIGHTS = ("LoadedBackbone", "load_backbone")


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'eyeswap' has no attribute {name!r}")
    if name == "ops":
        return importlib.import_module("eyeswap.ops")
    home = "eyeswap.backbones.weights" if name in _WEIGHTS else "eyeswap.api"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
