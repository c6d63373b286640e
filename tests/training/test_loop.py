import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eyeswap.data.collate import Encoded, encode_conversation
from eyeswap.data.order import batch_order
from eyeswap.data.tokens import TokenCache
from eyeswap.errors import CheckpointError, RunError
from eyeswap.recipe import DigitsData, Recipe
from eyeswap.training import loop
from eyeswap.training.loop import train
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

IMAGES = [f"{number}.jpg" for number in range(12)]
CACHE = TokenCache(IMAGES, np.random.default_rng(0).normal(size=(12, 4, 8)).astype(np.float16))
ORDER = batch_order(12, 4, 2, seed=7)


def recipe(**changes: object) -> Recipe:
    return Recipe(data=DigitsData(), llm="x", global_batch=4, lr=1e-2, precision="fp32", **changes)


def fresh(llm: Path) -> VisionLanguageModel:
    model, tokenizer, prompt = load_llm(llm)
    return VisionLanguageModel.from_parts(model, tokenizer, build_connector("gelu-mlp", 8, 32, seed=1), prompt)


def examples(model: VisionLanguageModel) -> list[Encoded]:
    talk = [(f"How many {n} are there?", str(n) * (1 + n % 3)) for n in range(12)]
    return [encode_conversation(turns, model.prompt, model.tokenizer, 64) for turns in talk]


def run(llm: Path, folder: Path, report=lambda step, loss: None, chosen: Recipe | None = None):
    model = fresh(llm)
    train(model, examples(model), IMAGES, CACHE, ORDER, chosen or recipe(), folder, "d", report)
    return model.state_dict()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_two_runs_with_one_seed_give_identical_weights(tiny_llm: Path, tmp_path: Path):
    assert equal(run(tiny_llm, tmp_path / "a"), run(tiny_llm, tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a")[-1] < losses(tmp_path / "a")[0]


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
):
    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY_S", 0.0)
    whole = run(tiny_llm, tmp_path / "whole")

    def interrupt(step: int, loss: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_llm, tmp_path / "cut", interrupt)
    assert equal(run(tiny_llm, tmp_path / "cut"), whole)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_the_exact_loss_does_not_depend_on_the_split_into_micro_batches(tiny_llm: Path, tmp_path: Path):
    run(tiny_llm, tmp_path / "one")
    run(tiny_llm, tmp_path / "two", chosen=recipe(micro_batch=2))
    run(tiny_llm, tmp_path / "published", chosen=recipe(micro_batch=2, loss="micro-batch-mean"))
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=1e-4)
    assert abs(losses(tmp_path / "published")[0] - losses(tmp_path / "one")[0]) > 1e-4


def test_a_checkpoint_of_another_recipe_or_a_damaged_one_is_refused(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY_S", 0.0)
    run(tiny_llm, tmp_path)
    model = fresh(tiny_llm)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(model, examples(model), IMAGES, CACHE, ORDER, recipe(), tmp_path, "e", lambda step, loss: None)
    latest = tmp_path / "checkpoints" / "latest.pt"
    latest.write_bytes(latest.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"latest\.pt: damaged"):
        run(tiny_llm, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tiny_llm: Path, tmp_path: Path):
    model = fresh(tiny_llm)
    with torch.no_grad():
        model.connector[0].weight.fill_(float("nan"))
    with pytest.raises(RunError, match="loss is nan at step 0"):
        train(model, examples(model), IMAGES, CACHE, ORDER, recipe(), tmp_path, "d", lambda step, loss: None)
