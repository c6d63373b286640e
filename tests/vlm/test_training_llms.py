"""Every kind of LLM is trained: padded, packed where its attention allows it, and through adapters."""

import json
from pathlib import Path

import numpy as np
import pytest

from eyeswap.data.instruction import Instruction
from eyeswap.recipe import DigitsData, Execution, Recipe
from eyeswap.tokens.cache import TokenCache
from eyeswap.training.batches import TrainingData
from eyeswap.training.collate import EncodedConversations
from eyeswap.training.loop import train
from eyeswap.training.lora import add_adapters
from eyeswap.training.vision import CachedTokens
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

RECORDS = [
    Instruction(str(n), None if n == 3 else f"{n}.jpg", ("What is this?", "A " + "dog " * n) * (1 + n % 2))
    for n in range(4)
]


def losses(llm: Path, folder: Path, rank: int | None = None, **how: object) -> list[float]:
    model, tokenizer, prompt = load_llm(llm)
    vlm = VisionLanguageModel.from_parts(model, tokenizer, build_connector("gelu-mlp", 8, 32, seed=1), prompt)
    recipe = Recipe(
        data=DigitsData(), llm="x", global_batch=4, num_epochs=3, lr=1e-2, precision="fp32", order="shuffled"
    )
    tokens = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float16)
    source = CachedTokens(TokenCache([f"{n}.jpg" for n in range(3)], tokens))
    messages = [record.messages for record in RECORDS]
    encoded = EncodedConversations.of(messages, prompt, tokenizer, recipe.max_text_tokens)
    data = TrainingData.of(RECORDS, encoded, recipe, 7, source)
    if rank is not None:
        add_adapters(vlm.llm, rank, seed=0)
    train(vlm, data, recipe, folder, "d", execution=Execution(**how))
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def test_padded_and_packed_passes_have_equal_losses_and_learn(other_llm: Path, tmp_path: Path) -> None:
    padded = losses(other_llm, tmp_path / "padded")
    assert padded[-1] < padded[0]
    assert losses(other_llm, tmp_path / "packed", tokens_per_pass=100) == pytest.approx(padded, rel=1e-4)


def test_adapters_learn_in_every_llm(other_llm: Path, tmp_path: Path) -> None:
    adapted = losses(other_llm, tmp_path, rank=2)
    assert adapted[-1] < adapted[0]
