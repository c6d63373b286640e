"""Connectors of one's own: built, checked, saved with their code, and not run unless they are trusted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.connector_name import ConnectorName
from eyeswap.errors import CheckpointError, SpecError
from eyeswap.planning.cost import connector_size
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

PAGE = (Path(__file__).parents[2] / "docs" / "connectors.md").read_text(encoding="utf-8")
CODE = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The connector that the page shows."""
    (tmp_path / "my_connector.py").write_text(CODE, encoding="utf-8")
    return tmp_path / "my_connector.py"


def test_the_connector_on_the_page_passes_as_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    result = CliRunner().invoke(app, ["check", "--connector", "my_connector.py:build"])
    shown = re.search(r"```console\n(.*?)```", PAGE, re.DOTALL).group(1).splitlines()[1:]
    assert result.exit_code == 0
    told = [re.sub(r"[\d.]+e[+-]\d+", "#", line).rstrip() for line in result.stdout.splitlines()]
    assert told == [re.sub(r"[\d.]+e[+-]\d+", "#", line) for line in shown]


def test_its_size_is_found_out_by_running_it(file: Path) -> None:
    name = ConnectorName.parse("my_connector.py:build", file.parent)
    assert (name.identity, name.own.file) == ("my_connector.py:build", file)
    size = connector_size(name.text, (8, 8), 16, 32)
    assert (size.tokens, size.parameters) == (32, 16 * 32 + 32 + 32 * 32 + 32)
    assert size.multiplied == 32 * (16 * 32 + 32 * 32)
    first, other = (build_connector(name.text, 16, 32, seed, grid=(8, 8)).state_dict() for seed in (1, 2))
    assert not first["0.layers.0.weight"].equal(other["0.layers.0.weight"])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def build(d, D, grid): return 3", "returned int, expected a torch.nn.Module"),
        ("def build(d, D): return None", "build.. failed: TypeError"),
        ("import torch\ndef build(d, D, grid): return torch.nn.Linear(d, 5)", r"gave \[2, 64, 5\] of \[2, 64, 16\]"),
        ("import torch\ndef build(d, D, grid): return torch.nn.Linear(7, D)", "tokens: RuntimeError"),
        ("import torch\ndef build(d, D, grid): return torch.nn.ZeroPad1d((0, D - d))", "without a parameter to train"),
        ("def other(): pass", "has no function build"),
    ],
)
def test_what_is_no_connector_is_refused_in_one_line(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "odd.py").write_text(code)
    with pytest.raises(SpecError, match=told) as caught:
        build_connector(f"{tmp_path}/odd.py", 16, 32, seed=1, grid=(8, 8))
    assert "\n" not in str(caught.value)


def test_checks_find_what_would_fail_after_hours(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SCALE = 2.0")
    (tmp_path / "odd.py").write_text(
        "import torch\nimport random\nfrom helper import SCALE\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self, d, D):\n"
        "        super().__init__()\n"
        "        self.used, self.idle = torch.nn.Linear(d, D), torch.nn.Linear(d, D)\n"
        "        torch.nn.init.constant_(self.used.bias, random.random())\n"
        "    def forward(self, x):\n"
        "        return self.used(x - x.mean(dim=0, keepdim=True)) * SCALE\n"
        "def build(d, D, grid):\n"
        "    return Odd(d, D)\n"
    )
    result = CliRunner().invoke(app, ["check", "--connector", f"{tmp_path}/odd.py"])
    assert result.exit_code == 1
    assert "failed: gradient, seed, batch, saved" in result.stdout
    assert "cannot be loaded elsewhere" in result.stdout


def test_a_model_is_saved_with_its_code_and_runs_it_only_if_trusted(file: Path, tiny_llm: Path, tmp_path: Path) -> None:
    backbone = load_backbone("digits-vit")
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector(f"{file}:build", 128, llm.config.hidden_size, 1, grid=backbone.token_grid)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).eval()
    assert model.processor.num_visual_tokens == 32
    folder = tmp_path / "vlm"
    model.save(folder)
    assert (folder / "my_connector.py").read_text() == CODE
    assert model.config.connector == "my_connector.py:build"
    file.unlink()
    with pytest.raises(SpecError, match=r"its connector is code of its own, my_connector\.py; read it"):
        VisionLanguageModel.load(folder)
    with pytest.raises(SpecError, match="is not the file that the study names"):
        VisionLanguageModel.load(folder, trust_remote_code="0" * 64)
    loaded = VisionLanguageModel.load(folder, trust_remote_code=model.config.connector_sha256)
    tokens = torch.randn(2, 64, 128)
    assert loaded.connector(tokens).equal(model.connector(tokens))
    (folder / "my_connector.py").write_text(CODE + "# changed")
    with pytest.raises(CheckpointError, match="not the code that this VLM was trained with"):
        VisionLanguageModel.load(folder, trust_remote_code=True)
