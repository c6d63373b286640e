"""The shipped recipe is the published one, number by number (the released training code's fine-tuning stage)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eyeswap.planning.estimate import Assumptions, workload
from eyeswap.planning.spec import load_recipe
from eyeswap.recipe import FolderData, Recipe
from eyeswap.study.one_arm import one_arm
from eyeswap.training.order import split_modality_order
from eyeswap.training.step import build_optimizer, learning_rate

RECIPES = Path(__file__).parents[2] / "recipes"
FILE = RECIPES / "llava-one-stage.yaml"
# Published: data, epochs, batches, optimiser, schedule, clipping, precision, loss, lengths, LLM, connector.
PUBLISHED = {
    "data": FolderData(
        folder="data",
        instruction="download/llava-v1.5-instruct/llava_v1_5_mix665k.json",
        box_frame="padded-square",
    ),
    "num_epochs": 1,
    "global_batch": 128,
    "micro_batch": 16,
    "lr": 2e-5,
    "weight_decay": 0.1,
    "warmup_fraction": 0.03,
    "schedule": "cosine",
    "clip_norm": 1.0,
    "precision": "bf16",
    "order": "split-modality",
    "loss": "micro-batch-mean",
    "max_text_tokens": 2048,
    "llm": "lmsys/vicuna-7b-v1.5",
    "connector": "gelu-mlp",
    "lora_rank": None,
    "max_steps": None,
    "published_gpus": 8,
    "train_box_frame": "verbatim",
    "test_box_frame": "study",
}
STEPS, WARMUP = 5198, 155


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(FILE)


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_recipe_has_the_published_value(recipe: Recipe, key: str) -> None:
    assert getattr(recipe, key) == PUBLISHED[key]


def test_what_a_recipe_leaves_out_is_published_too(recipe: Recipe) -> None:
    bare = Recipe(data=FolderData(folder="data"))
    differing = {key for key in Recipe.model_fields if getattr(bare, key) != getattr(recipe, key)}
    # By default the mean is exact, nothing is said of a file's boxes, and upstream's frame counts.
    assert differing == {"loss", "micro_batch", "data", "test_box_frame"}


def test_every_key_is_either_published_or_named_as_left_open() -> None:
    beyond = {"trainable", "blocks", "stages", "align"}  # the published run has one stage that trains connector and LLM
    assert set(Recipe.model_fields) - set(PUBLISHED) - beyond == {"prompt", "wiring"}
    assert "--wiring as-published" in FILE.read_text(encoding="utf-8")


def test_the_optimiser_is_the_published_one(recipe: Recipe) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "linear": nn.Linear(3, 2), "norm": nn.LayerNorm(3)})
    optimizer = build_optimizer(model, recipe.weight_decay)
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, plain = optimizer.param_groups
    assert [(group["betas"], group["eps"]) for group in (decayed, plain)] == [((0.9, 0.999), 1e-8)] * 2
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {id(one) for one in decayed["params"]} == {id(model["embedding"].weight), id(model["linear"].weight)}
    assert len(plain["params"]) == 3


def test_the_schedule_is_the_published_one(recipe: Recipe) -> None:
    work = workload(recipe, Assumptions())
    assert work.steps == STEPS
    rates = [learning_rate(step, STEPS, recipe.lr, recipe.warmup_fraction) for step in range(STEPS)]
    assert rates[0] == 0.0
    assert rates.index(max(rates)) == WARMUP
    assert max(rates) == 2e-5
    half = WARMUP + (STEPS - WARMUP) // 2
    assert rates[half] == pytest.approx(1e-5, rel=1e-3)
    assert rates[-1] < 1e-11


def test_the_batches_are_the_published_ones(recipe: Recipe) -> None:
    order = split_modality_order([True] * 300 + [False] * 20, [1] * 320, recipe.global_batch, recipe.num_epochs, 7)
    assert order.shape == (4, 128)


def test_the_seed_is_the_published_one_unless_told_otherwise() -> None:
    from typer.main import get_command

    from eyeswap.cli.main import app

    command = get_command(app).commands["train"]
    assert next(one.default for one in command.params if one.name == "seed") == 7
    assert one_arm(FILE, {"backbone": "digits-vit"}, seed=3).seeds == (3,)


def test_changes_are_carried_out_one_by_one() -> None:
    changes = ["loss=token-mean", "micro_batch=null", "execution.tokens_per_pass=8192", "data.folder=elsewhere"]
    study = one_arm(FILE, {"backbone": "digits-vit", "connector": "fused-gelu-mlp"}, 7, changes)
    assert study.execution.tokens_per_pass == 8192
    assert (study.recipe.loss, study.recipe.micro_batch) == ("token-mean", None)
    assert study.recipe.data == PUBLISHED["data"].model_copy(update={"folder": "elsewhere"})
    assert list(study.arms) == ["digits-vit-fused-gelu-mlp"]
    assert study.connector_of("digits-vit-fused-gelu-mlp") == "fused-gelu-mlp"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_names_its_command(path: Path) -> None:
    load_recipe(path)
    assert f"# Command    eyeswap train recipes/{path.name}" in path.read_text(encoding="utf-8")
