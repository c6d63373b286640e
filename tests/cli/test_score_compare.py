from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from official_files import write_official_files, write_predictions


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    write_official_files(folder / "data")
    write_predictions(folder / "a", folder / "data", ["vqav2", "pope", "ocid-ref"], seed=1)
    write_predictions(folder / "b", folder / "data", ["vqav2", "pope"], seed=2, keep=0.5)
    return folder / "a", folder / "b"


def test_score_prints_what_it_gives_as_json(runs):
    shown = invoke("score", runs[0])
    assert shown.exit_code == 0
    content = json.loads(invoke("score", runs[0], "--json").stdout)
    for entry in [*content["benchmarks"].values(), *content["averages"].values()]:
        assert f"{entry['score']:.2f}" in shown.stdout
    assert "differ from those stored" not in shown.stdout
    assert not (runs[0] / "scores.json").exists()


def test_score_of_an_unfinished_run_says_how_much_is_answered(runs):
    shown = invoke("score", runs[1], "--mode", "official", "--details", "--benchmarks", "pope")
    assert "30 of 60" in shown.stdout
    assert "f1/adversarial" in shown.stdout
    assert "the official script scores generated text" in shown.stdout
    assert "VQA v2" not in shown.stdout


def test_compare_prints_what_it_gives_as_json(runs):
    shown = invoke("compare", *runs, "--examples", "2")
    assert shown.exit_code == 0
    content = json.loads(invoke("compare", *runs, "--json").stdout)
    for entry in content["benchmarks"].values():
        assert f"{entry['difference']:+.2f}" in shown.stdout
    assert "! vqav2: 30 examples are compared; 30 only in the first run (530, 531, 532, ...)" in shown.stdout
    assert "a x6, b x4" in shown.stdout
    one = json.loads(invoke("compare", *runs, "--benchmark", "pope", "--json").stdout)
    assert list(one["benchmarks"]) == ["pope"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "{a}", "--mode", "oficial"), "'--mode': 'oficial' is not one of 'study', 'official'"),
        (("score", "{a}", "--weights", "x"), "'--weights': 'x' is not one of 'counts', 'published'"),
        (("score", "{a}/predictions"), "no predictions; pass the folder of a run"),
        (("compare", "{a}", "{a}/none"), "no predictions; pass the folder of a run"),
        (("compare", "{a}", "{b}", "--benchmark", "ocid-ref"), "did not both answer 'ocid-ref'"),
    ],
)
def test_a_mistake_is_one_line(runs, arguments, message):
    shown = invoke(*(word.format(a=runs[0], b=runs[1]) for word in arguments))
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1
