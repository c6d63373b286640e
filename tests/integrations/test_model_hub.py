"""A run's model goes to a server that speaks the Hub's protocol and comes back to the byte, with a true card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub_server import hub
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.errors import EnvironmentProblem, RunError, SpecError
from eyeswap.integrations.model_hub import model_card, pull_model, push_model
from eyeswap.results.run import Run

OLDER = Path(__file__).parents[1] / "fixtures" / "older-study" / "runs" / "before" / "vit" / "seed-7"


@pytest.fixture
def run(tmp_path: Path, tiny_llm: Path) -> Path:
    """A finished run with a small model in it."""
    folder = tmp_path / "before" / "vit" / "seed-7"
    shutil.copytree(OLDER, folder)
    (folder / "seal.json").unlink()
    shutil.rmtree(folder / "model")
    shutil.copytree(tiny_llm, folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "eyeswap"}')
    return folder


def test_a_model_comes_back_as_it_went(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with hub() as server:
        assert push_model(run, "my-lab/small", endpoint=server.address).endswith("my-lab/small")
        assert server.private == {"my-lab/small": True}
        pull_model("my-lab/small", tmp_path / "again", endpoint=server.address)
    sent = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    came = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert came.pop("README.md").decode() == model_card(Run(run), "my-lab/small")
    assert came == sent


def test_the_place_of_an_encoder_of_ones_own_stays_at_home(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    recorded = {"model_type": "eyeswap", "backbone": f"{tmp_path}/secret/my_encoder.py:build"}
    (run / "model" / "config.json").write_text(json.dumps(recorded))
    with hub() as server:
        push_model(run, "my-lab/small", endpoint=server.address)
        pull_model("my-lab/small", tmp_path / "again", endpoint=server.address)
    came = json.loads((tmp_path / "again" / "config.json").read_text())
    assert came == recorded | {"backbone": "my_encoder.py:build"}


def test_the_card_says_what_the_records_say(run: Path) -> None:
    card = model_card(Run(run), "my-lab/small")
    for text in (
        "study `before`, arm `vit`, seed 7",
        "`digits-vit`, 64 visual tokens",
        "`digits-llm`",
        "the embedded set `digits`, 16 images",
        "2 steps of 8 conversations, learning rate 0.001",
        "| POPE | ",
        "eyeswap models pull my-lab/small small",
    ):
        assert text in card
    assert str(run) not in card
    shown = CliRunner().invoke(app, ["models", "push", str(run), "my-lab/small", "--card-only"])
    assert shown.stdout == card


def test_a_run_whose_files_changed_is_not_pushed(tmp_path: Path) -> None:
    folder = tmp_path / "before" / "vit" / "seed-7"
    shutil.copytree(OLDER, folder)
    (folder / "train.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"files changed since the run ended.*train\.jsonl"):
        push_model(folder, "my-lab/small", endpoint="http://127.0.0.1:9")


def test_what_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with hub() as server:
        with pytest.raises(EnvironmentProblem, match="my-lab/none: the Hub refused or cannot be reached"):
            pull_model("my-lab/none", tmp_path / "out", endpoint=server.address)
        server.repositories["my-lab/other"] = {"config.json": b'{"model_type": "llama"}'}
        with pytest.raises(RunError, match="holds no VLM of eyeswap's"):
            pull_model("my-lab/other", tmp_path / "out", endpoint=server.address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["small", "a/b/c", "a b/c", "../x/y"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="write organisation/model"):
        pull_model(name, tmp_path / "out")
