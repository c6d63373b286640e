"""Pretraining of the miniature models: backbones on classification, the LLM on text."""

from __future__ import annotations

from eyeswap.pretraining.pretrain import pretrain

__all__ = ["pretrain"]
