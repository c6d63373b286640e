"""The page on encoders of one's own is true: its code runs, passes the check, and makes an arm."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eyeswap.backbones import catalog
from eyeswap.cli.main import app
from eyeswap.planning.spec import load_study

PAGE = (Path(__file__).parents[2] / "docs" / "own-encoder.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first code block as a file in the current folder."""
    path = tmp_path / "my_encoder.py"
    path.write_text(blocks("python")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eyeswap.backbones.measure.BUDGET_S", 0.0)
    return path


def test_the_encoder_passes_and_the_output_shown_is_that_of_the_command(encoder: Path) -> None:
    result = CliRunner().invoke(app, ["check", "my_encoder.py"])
    assert result.exit_code == 0, result.output
    command, *shown = blocks("console")[0].splitlines()
    assert command == "$ eyeswap check my_encoder.py"
    measured = {"speed", "memory"}  # which differ from machine to machine
    told = result.stdout.splitlines()
    assert [line.split()[:2] for line in told] == [line.split()[:2] for line in shown]
    for mine, theirs in zip(told, shown, strict=True):
        if not measured & set(theirs.split()[:2]):
            assert _rounded(mine) == _rounded(theirs)


def _rounded(line: str) -> str:
    """Return a line without the digits that rounding decides."""
    return re.sub(r"[\d.]+e[+-]\d+|[\d.]+%", "#", line)


def test_the_weights_beside_the_file_are_loaded_strictly(encoder: Path) -> None:
    from eyeswap.backbones.weights import load_backbone
    from eyeswap.errors import CheckpointError
    from eyeswap.files import write_safetensors

    state = load_backbone("my_encoder.py").network.state_dict()
    write_safetensors(encoder.with_name("tower.safetensors"), {key: value * 0 for key, value in state.items()})
    assert not load_backbone("my_encoder.py").network.norm.weight.any()
    state.pop("norm.bias")
    write_safetensors(encoder.with_name("tower.safetensors"), state)
    with pytest.raises(CheckpointError, match=r"tower\.safetensors: missing key norm\.bias"):
        load_backbone("my_encoder.py")


def test_the_test_shown_passes(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(encoder.parent))
    monkeypatch.delitem(sys.modules, "my_encoder", raising=False)
    names: dict[str, object] = {}
    exec(blocks("python")[1], names)
    test = names["test_my_encoder_keeps_the_contract"]
    assert callable(test)
    test()
    monkeypatch.delitem(sys.modules, "my_encoder")


def test_the_study_shown_loads_beside_the_encoder(encoder: Path) -> None:
    study = encoder.with_name("mine.yaml")
    study.write_text(blocks("yaml")[0], encoding="utf-8")
    assert list(load_study(study).arms) == ["mine", "vmamba"]


def test_the_python_shown_gives_tokens() -> None:
    names: dict[str, object] = {"image": Image.new("RGB", (30, 20))}
    exec(blocks("python")[2], names)
    assert names["tokens"].shape == (1, 64, 128)


def test_the_entry_shown_is_valid() -> None:
    folder = Path(catalog.__file__).with_name("catalog")
    raw = yaml.safe_load((folder / "vmamba.yaml").read_text(encoding="utf-8")) | yaml.safe_load(blocks("yaml")[-1])
    entry = catalog.BackboneEntry.model_validate({"name": "mine", **catalog._resolve(raw, "vmamba-tiny-mine")})
    assert entry.build().embed_dim == 384
    assert entry.size is None
