"""A training run that takes a tenth of a second: 16 conversations about 4 visual tokens, some about none."""

import json
from pathlib import Path

import numpy as np
import torch

from eyeswap.data.instruction import Instruction
from eyeswap.recipe import DigitsData, Execution, Recipe
from eyeswap.tokens.cache import TokenCache
from eyeswap.training.batches import TrainingData
from eyeswap.training.collate import EncodedConversations
from eyeswap.training.loop import train
from eyeswap.training.vision import CachedTokens
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

COUNT = 16


def recipe(**changes: object) -> Recipe:
    values = {"global_batch": 4, "num_epochs": 2, "lr": 1e-2, "precision": "fp32", "max_text_tokens": 64, **changes}
    return Recipe(data=DigitsData(), llm="x", **values)


def instructions() -> list[Instruction]:
    return [
        Instruction(
            f"id-{n}",
            None if n % 4 == 3 else f"{n}.jpg",
            (f"How many {n} are there?", str(n) * (1 + n % 3)) * (1 + n % 2),
        )
        for n in range(COUNT)
    ]


def fresh(llm: Path, parts: tuple | None = None) -> VisionLanguageModel:
    model, tokenizer, prompt = parts or load_llm(llm)
    return VisionLanguageModel.from_parts(
        model, tokenizer, build_connector("gelu-mlp", 8, model.config.hidden_size, seed=1), prompt
    )


def tiny_data(model: VisionLanguageModel, chosen: Recipe | None = None) -> TrainingData:
    records = instructions()
    images = [f"{n}.jpg" for n in range(COUNT)]
    cache = TokenCache(images, np.random.default_rng(0).normal(size=(COUNT, 4, 8)).astype(np.float16))
    messages = [record.messages for record in records]
    chosen = chosen or recipe()
    encoded = EncodedConversations.of(messages, model.prompt, model.tokenizer, chosen.max_text_tokens)
    return TrainingData.of(records, encoded, chosen, seed=7, source=CachedTokens(cache))


def run(
    llm: Path, folder: Path, chosen: Recipe | None = None, execution: Execution | None = None, **options: object
) -> dict[str, torch.Tensor]:
    model = fresh(llm)
    chosen = chosen or recipe()
    options = {"digest": "d", **options}
    train(model, tiny_data(model, chosen), chosen, folder, execution=execution, **options)
    return model.state_dict()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)
