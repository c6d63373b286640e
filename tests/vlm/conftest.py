"""Fixture: tiny language models of several kinds, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llms import llama, neox, qwen


@pytest.fixture(params=[llama, qwen, neox], ids=["llama", "qwen", "neox"], scope="session")
def other_llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of the tiny LLMs, wild enough not to repeat one token."""
    torch.manual_seed(0)
    model, tokenizer = request.param()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    folder = tmp_path_factory.mktemp(request.param.__name__)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
