"""Every command that opens a model runs the code of its custom encoder or connector only with --trust-code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import eyeswap
from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.errors import SpecError
from eyeswap.study import evaluate
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm
from written_runs import TRUE, write_run

CODE = (
    "import torch\n\ndef build(vision_width, llm_width, grid):\n    return torch.nn.Linear(vision_width, llm_width)\n"
)
ENCODER = """from pathlib import Path
from eyeswap.backbones import catalog

def build():
    Path(__file__).with_name("ran").touch()
    entry = catalog.entry("digits-vit")
    return entry.build(), entry.geometry
"""
REFUSED = "its connector is code of its own, my_connector.py"


@pytest.fixture(scope="module")
def model(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved VLM with a custom connector."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_connector.py").write_text(CODE, encoding="utf-8")
    backbone = load_backbone("digits-vit")
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector(
        f"{folder}/my_connector.py:build", 128, llm.config.hidden_size, 1, grid=backbone.token_grid
    )
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(folder / "vlm")
    return folder / "vlm"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def test_ask_and_probe_refuse_untrusted_code(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    commands = {
        "ask": [model, tmp_path / "image.png", "What is this?"],
        "probe": [model, "--count", "20", "--layers", "1", "--out", tmp_path / "probes"],
    }
    for name, arguments in commands.items():
        result = invoke(name, *arguments)
        assert result.exit_code == 2, (name, result.output)
        assert REFUSED in result.stderr
        assert "--trust-code" in result.stderr
    assert invoke("ask", *commands["ask"], "--trust-code", "--json").exit_code == 0


def test_an_encoder_of_ones_own_is_not_run_untrusted(tiny_llm: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "my_encoder.py"
    encoder.write_text(ENCODER, encoding="utf-8")
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector("gelu-mlp", 128, llm.config.hidden_size, 1)
    backbone = load_backbone(f"{encoder}:build")
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(tmp_path / "vlm")
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    ran = tmp_path / "ran"
    ran.unlink()
    words = ["ask", tmp_path / "vlm", tmp_path / "image.png", "What is this?"]
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert f"its backbone is code of its own, {encoder}" in result.stderr
    assert not ran.exists()
    assert invoke(*words, "--trust-code").exit_code == 0
    assert ran.exists()


def test_every_command_that_opens_models_has_the_option() -> None:
    for name in ("ask", "serve", "eval", "probe", "collapse", "report"):
        assert "--trust-code" in invoke(name, "--help").stdout, name


@pytest.mark.parametrize("trusted", [False, True])
def test_collapse_passes_the_trust_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    seen: list[Any] = []
    run = write_run(tmp_path / "runs" / "study", "seeing", TRUE)
    monkeypatch.setattr(evaluate, "study_settings", lambda folder: (str(tmp_path), "full", ["pope"]))
    monkeypatch.setattr(evaluate, "evaluate_run", lambda *_, trusts_code=False, **__: seen.append(trusts_code))
    result = invoke("collapse", run, "--probe", "4", *(["--trust-code"] if trusted else []))
    assert result.exit_code == 0, result.output
    assert seen == [trusted, trusted]


def test_python_has_the_same_rule(model: Path) -> None:
    with pytest.raises(SpecError, match=REFUSED):
        eyeswap.load_vlm(model)
    assert eyeswap.load_vlm(model, device="cpu", trust_remote_code=True).config.connector == "my_connector.py:build"
