"""`eyeswap study new` writes a commented study that loads, and nothing where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.planning.spec import load_study


def new(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["study", "new", *arguments])
    return result.exit_code, result.stdout + result.stderr


def test_a_miniature_study_is_ready_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = new("studies/mine.yaml", "digits-vit", "digits-vmamba")
    assert code == 0
    assert "run      eyeswap study run studies/mine.yaml" in text
    study = load_study(Path("studies/mine.yaml"))
    assert list(study.arms) == ["digits-vit", "digits-vmamba"]
    assert study.recipe.llm == "digits-llm"
    assert study.seeds == (7, 8, 9)
    assert Path("studies/mine.yaml").read_text().count("#") >= 8


def test_other_backbones_get_the_published_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert new(str(path), "in1k-vit-s", "vmamba-small-s2l15", "timm:vit_small_patch16_224")[0] == 0
    study = load_study(path)
    assert list(study.arms) == ["in1k-vit-s", "vmamba-small-s2l15", "timm-vit-small-patch16-224"]
    assert study.recipe.llm == "lmsys/vicuna-7b-v1.5"


@pytest.mark.parametrize(
    ("backbones", "message"),
    [
        (["digits-vit"], "at least two backbones"),
        (["digits-vit", "digits-vmanba"], "mine.yaml: arms.digits-vmanba"),
    ],
)
def test_nothing_is_written_where_it_could_not_run(tmp_path: Path, backbones: list[str], message: str) -> None:
    code, text = new(str(tmp_path / "mine.yaml"), *backbones)
    assert code == 2
    assert message in text
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    assert "exists" in new(str(path), "digits-vit", "digits-vmamba")[1]
    assert path.read_text() == "mine"


def test_the_schema_of_a_study_file_is_printed_for_editors() -> None:
    import json

    schema = json.loads(CliRunner().invoke(app, ["study", "fields", "--json"]).stdout)
    assert {"question", "recipe", "arms", "benchmarks", "seeds"} <= set(schema["properties"])


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout


def test_quiet_shows_no_progress() -> None:
    from eyeswap.console import be_quiet, progress_console

    try:
        CliRunner().invoke(app, ["--quiet", "study", "fields"])
        assert progress_console().quiet
        CliRunner().invoke(app, ["study", "fields"])
        assert not progress_console().quiet
    finally:
        be_quiet(False)
