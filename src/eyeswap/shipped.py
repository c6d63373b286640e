"""The checkpoints that come with the package: miniature backbones and the miniature LLM."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
SHIPPED_LLM = "digits-llm"


def llm_path(name: str) -> Path:
    """Return the folder of an LLM: the package's for ``digits-llm``, otherwise the name as a path."""
    return CHECKPOINTS / name if name == SHIPPED_LLM else Path(name)


def llm_source(name: str) -> str:
    """Return the source of an LLM: the package's folder for ``digits-llm``, otherwise the given folder or Hub id."""
    return str(CHECKPOINTS / name) if name == SHIPPED_LLM else name
