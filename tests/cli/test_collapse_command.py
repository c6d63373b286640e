"""`eyeswap collapse` and `eyeswap published` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.planning.spec import load_study
from written_runs import TRUE, write_run

STUDY = """\
question: Which one locates?
recipe: {data: digits, llm: digits-llm}
arms: {seeing: digits-vit, silent: digits-vmamba}
benchmarks: [pope, refcoco]
"""


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of two finished runs: one sees, one says nothing."""
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    study = tmp_path / "runs" / "study"
    write_run(study, "seeing", TRUE)
    write_run(study, "silent", [None])
    resolved = load_study(tmp_path / "study.yaml").model_dump(mode="json")
    (study / "study.json").write_text(json.dumps(resolved), encoding="utf-8")
    return study


def test_verdicts_come_with_their_reasons(folder: Path) -> None:
    shown = invoke("collapse", folder).stdout
    assert "healthy" in shown
    assert "collapsed" in shown
    assert "not significantly above zero" in " ".join(shown.split())
    found = {arm["arm"]: arm for arm in json.loads(invoke("collapse", folder, "--json").stdout)}
    assert found["seeing"]["verdict"] == "healthy"
    assert found["silent"]["verdict"] == "collapsed"
    assert found["silent"]["runs"][0]["signs"]["boxes"]["invalid_rate"] == 1


def test_the_cures_of_the_collapsed_arm_are_written_as_a_study(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cured.yaml"
    result = invoke("collapse", folder, "--write-stabilized", path)
    assert result.exit_code == 0, result.output
    assert list(load_study(path).arms) == ["silent", "silent-fused"]
    again = invoke("collapse", folder, "--write-stabilized", path)
    assert again.exit_code == 2
    assert "already exists" in again.stderr


def test_where_nothing_collapsed_there_is_nothing_to_cure(folder: Path, tmp_path: Path) -> None:
    result = invoke("collapse", folder / "seeing", "--write-stabilized", tmp_path / "cured.yaml")
    assert result.exit_code == 2
    assert result.stderr == "error: study: no arm has collapsed, so there is nothing to stabilize\n"


def test_probes_ask_a_part_of_each_runs_questions_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in folder.glob("*/seed-7"):
        (run / "model").mkdir()
        spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
        spec |= {"recipe": {"data": {"name": "digits"}}, "benchmarks": ["pope", "refcoco"]}
        (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    asked = []
    monkeypatch.setattr("eyeswap.study.evaluate.evaluate_run", lambda *arguments, **how: asked.append(arguments[:3]))
    assert invoke("collapse", folder, "--probe", 9).exit_code == 0
    assert [(run.parent.name, names, settings.name) for run, names, settings in asked] == [
        (arm, ["pope", "refcoco"], f"data-9-study-{images}")
        for arm in ("seeing", "silent")
        for images in ("blanked", "shuffled")
    ]


def test_a_run_without_its_model_cannot_be_probed(folder: Path) -> None:
    result = invoke("collapse", folder, "--probe", 9)
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("there is no trained model to probe (model/ is missing)")


def test_unfinished_runs_are_left_out(folder: Path) -> None:
    (folder / "silent" / "seed-7" / "scores.json").unlink()
    assert [arm["arm"] for arm in json.loads(invoke("collapse", folder, "--json").stdout)] == ["seeing"]
    result = invoke("collapse", folder / "silent")
    assert result.exit_code == 2
    assert "no finished run here" in result.stderr


def test_published_results_are_listed() -> None:
    shown = invoke("published").stdout
    assert shown.count("released table") == 8
    assert "61.92" in shown
    content = json.loads(invoke("published", "--json").stdout)
    assert (len(content["results"]), len(content["profile"])) == (30, 118)
