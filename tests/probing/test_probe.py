"""A probe from its command to its files, on a tiny VLM and on a backbone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.errors import SpecError
from eyeswap.probing.labelled import digits_images
from eyeswap.probing.probe import probe_model
from eyeswap.probing.sites import chosen_layers
from eyeswap.progress import progress
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.llm import load_llm
from eyeswap.vlm.model import VisionLanguageModel


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit readouts for two steps in two folds: these tests are about what is written, not about what is found."""
    from eyeswap.probing import probe as module

    plain = module.cross_validate
    monkeypatch.setattr(module, "cross_validate", lambda *args, **kwargs: plain(*args, **kwargs, folds=2, steps=2))


@pytest.fixture
def model(tiny_llm: Path) -> VisionLanguageModel:
    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, llm.config.hidden_size, seed=1)
    return VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).eval()


@pytest.mark.usefixtures("short")
def test_a_vlm_is_probed_from_its_tokens_to_its_answers(model: VisionLanguageModel) -> None:
    with progress() as board:
        result = probe_model("tiny", model, digits_images(24), board)
    layers = chosen_layers(model, None)
    inside = [f"LLM layer {layer}" for layer in layers] + [f"answer, layer {layer}" for layer in layers]
    assert result.sites == ["visual tokens", "connector", *inside, "the VLM's answer"]
    for reading in result.readings:
        assert 0 <= reading.score.low <= reading.score.value <= reading.score.high <= 1
    assert set(result.statistics) == {"visual tokens", "connector"}
    assert result.word_alignment is not None


def test_layers_that_the_llm_lacks_are_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(SpecError, match="this LLM has layers 1 to"):
        chosen_layers(model, [99])


@pytest.mark.usefixtures("short")
def test_a_backbone_is_probed_and_everything_is_written(tmp_path: Path) -> None:
    words = ["probe", "digits-vit", "--count", "24", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "visual tokens" in result.stdout
    assert "best constant answer" in result.stdout
    folder = tmp_path / "digits-vit"
    content = json.loads((folder / "probe.json").read_text())
    rows = list(csv.DictReader((folder / "probe.csv").read_text().splitlines()))
    assert len(rows) == len(content["readings"]) == 8  # four tasks, two readouts
    assert float(rows[0]["score"]) == pytest.approx(content["readings"][0]["score"])
    assert (folder / "probe.png").read_bytes()[:4] == b"\x89PNG"


def test_an_unknown_target_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["probe", "digits-wit", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "digits-vit" in result.output
