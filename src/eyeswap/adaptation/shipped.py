"""The checkpoints that come with the package: miniature backbones and the miniature LLM."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
SHIPPED_LLM = "digits-llm"


def llm_path(name: str) -> Path:
    """Return where an LLM is loaded from: the package for ``digits-llm``, else the name as a folder or Hub id."""
    return CHECKPOINTS / name if name == SHIPPED_LLM else Path(name)
