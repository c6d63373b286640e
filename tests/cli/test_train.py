"""`eyeswap train` trains one VLM by a recipe, once; a dry run touches nothing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.vlm.model import VisionLanguageModel


@pytest.fixture
def recipe(tiny_llm: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(
        f"data: {{name: digits, num_train_images: 8, num_val_images: 2, turns: 2}}\nllm: {tiny_llm}\n"
        "global_batch: 4\nprecision: fp32\nmax_text_tokens: 64\n",
        encoding="utf-8",
    )
    return path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_recipe_and_a_backbone_become_a_model_that_can_be_asked(recipe: Path, tmp_path: Path) -> None:
    command = ("train", recipe, "--backbone", "digits-vit", "--runs", tmp_path / "runs")
    result = run(*command, "--connector", "linear", "--set", "lr=1e-3")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "mini" / "digits-vit-linear" / "seed-7"
    assert f"model: {folder / 'model'}" in result.stdout
    assert VisionLanguageModel.load(folder / "model").config.connector == "linear"
    spec = json.loads((folder / "spec.json").read_text())
    assert (spec["recipe"]["lr"], spec["benchmarks"], spec["may_differ"]) == (1e-3, [], ["backbone", "connector"])
    assert not (folder / "checkpoints").exists()

    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert run(*command, "--connector", "linear", "--set", "lr=1e-3").exit_code == 0
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    other = run(*command, "--connector", "linear", "--set", "lr=2e-3")
    assert other.exit_code == 2
    assert "holds a run of another version" in other.output

    asked = run("eval", folder, "--benchmarks", "pope", "--subset", "2")
    assert asked.exit_code == 0, asked.output


def test_a_dry_run_says_what_it_takes_and_touches_nothing(recipe: Path, tmp_path: Path) -> None:
    words = ("--backbone", "vmamba-small-s2l15", "--runs", tmp_path / "runs", "--dry-run", "--gpu", "h100")
    result = run("train", recipe, *words)
    assert result.exit_code == 0, result.output
    assert "no weights or images are loaded, and nothing is written" in result.stdout
    assert "2 steps over 8 conversations" in result.stdout
    assert not (tmp_path / "runs").exists()
    numbers = json.loads(run("train", recipe, *words, "--json").stdout)
    assert numbers["arms"]["vmamba-small-s2l15"]["visual_tokens"] == 196


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--backbone", "digits-vit", "--set", "lr"), "--set lr: write key=value"),
        (("--backbone", "digits-vit", "--set", "lr=fast"), 'recipe.lr: should be a valid number, got "fast"'),
        (("--backbone", "digits-vit", "--set", "execution.wokers=1"), "execution.wokers: unknown key"),
        (("--backbone", "digits-vim"), "did you mean digits-vit"),
        (("--backbone", "digits-vit", "--connector", "mlp"), "Did you mean gelu-mlp?"),
    ],
)
def test_a_mistake_is_one_line(recipe: Path, words: tuple[str, ...], told: str) -> None:
    result = run("train", recipe, *words)
    assert result.exit_code == 2
    assert told in result.output
    assert result.output.strip().count("\n") == 0


def test_a_study_is_sent_to_the_command_for_studies(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("question: why\nrecipe: {}\narms: {}\n", encoding="utf-8")
    result = run("train", path, "--backbone", "digits-vit")
    assert f"run it with `eyeswap study run {path}`" in result.output


def test_a_dry_run_of_many_processes_says_what_each_holds_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    command = ("train", recipe, "--backbone", "digits-vit", "--runs", tmp_path / "runs", "--ranks", 8)
    result = run(*command, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    step = json.loads(result.stdout)
    parts = ("parameters", "gradients", "optimizer", "gathered", "ahead", "activations", "backbone")
    assert step["peak"] == sum(step[part] for part in parts)
    assert (step["ranks"], step["fits"], step["tokens"]) == (8, True, 4 * (64 + 64))
    refused = run(*command, "--dry-run", "--gpu", "1:0.001")
    assert refused.exit_code == 2
    assert "does not fit into 95% of 0 GiB" in refused.output
    assert "only with --dry-run" in run(*command).output
    assert not (tmp_path / "runs").exists()
