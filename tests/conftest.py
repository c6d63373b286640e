"""Fixtures that several folders share: a tiny LLM on disk and a tiny VLM in memory, both seeded."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.tiny_study import write_tiny_llm

# Goldens were recorded with torch's AVX2 kernels; with AVX-512 its random numbers differ in the last digit.
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# A time limit for one example fails on a busy machine and finds nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Undo what libraries compiled with -ffast-math (torch.compile makes such) do to the thread that loads them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a one-layer Llama of width 32 and the miniature tokenizer, untrained."""
    return write_tiny_llm(tmp_path_factory.mktemp("tiny-llm"))


@pytest.fixture
def tiny_vlm(tiny_llm: Path):
    """A VLM with the tiny LLM and a connector for visual tokens of width 8."""
    from eyeswap.vlm.connector import build_connector
    from eyeswap.vlm.model import VisionLanguageModel, load_llm

    llm, tokenizer, prompt = load_llm(tiny_llm)
    return VisionLanguageModel.from_parts(llm, tokenizer, build_connector("gelu-mlp", 8, 32, seed=1), prompt)
