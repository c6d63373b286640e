"""Fixture: tiny language models of several kinds, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llms import KINDS, llama, make_wild, neox, of_kind, qwen


@pytest.fixture(params=[llama, qwen, neox], ids=["llama", "qwen", "neox"], scope="session")
def other_llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of the tiny LLMs, wild enough not to repeat one token."""
    torch.manual_seed(0)
    model, tokenizer = request.param()
    folder = tmp_path_factory.mktemp(request.param.__name__)
    make_wild(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS, scope="session")
def llm_of_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny LLM of one of the kinds, wild enough not to repeat one token."""
    torch.manual_seed(0)
    model, tokenizer = of_kind(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    make_wild(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
