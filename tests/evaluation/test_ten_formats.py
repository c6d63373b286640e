"""A miniature VLM answers every benchmark, read from its official files, in both modes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.data.official.families import FAMILIES
from eyeswap.evaluation import BENCHMARKS
from eyeswap.runs.folder import RunFolder
from official_files import write_official_files

CARRIED = ("refcoco-testA", "refcoco+-testB", "refcocog-test")  # test splits that the files have


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    write_official_files(folder)
    return folder


@pytest.fixture(scope="module")
def run(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eyeswap.backbones.weights import load_backbone
    from eyeswap.vlm.connector import build_connector
    from eyeswap.vlm.model import VisionLanguageModel, load_llm

    folder = tmp_path_factory.mktemp("run")
    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, llm.config.hidden_size, seed=1)
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(folder / "model")
    return folder


@pytest.mark.parametrize("mode", ["study", "official"])
def test_every_benchmark_is_asked_answered_and_scored(run, root, tmp_path, mode):
    names = [*BENCHMARKS, *CARRIED]
    arguments = ["--benchmarks", ",".join(names), "--data", root, "--subset", "4", "--mode", mode, "--json"]
    shown = invoke("eval", run, *arguments, "--out", tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert told["errors"] == 0
    assert list(told["benchmarks"]) == names
    parts = {"pope": 3, "tallyqa": 2, "ocid-ref": 3}
    for name, entry in told["benchmarks"].items():
        assert entry["n"] == entry["num_examples"] == 4 * parts.get(name, 1)
        assert RunFolder(tmp_path / "out").predictions_of(name).is_file()
        assert 0 <= entry["interval"][0] <= entry["score"] <= entry["interval"][1] <= 100
    assert set(told["averages"]) == {"vqa", "localization", "overall"}
    # What is stored can be scored again without the model, to the same digits.
    again = json.loads(invoke("score", tmp_path / "out", "--mode", mode, "--json").stdout)
    for name, entry in told["benchmarks"].items():
        assert again["benchmarks"][name]["score"] == entry["score"]
        assert again["benchmarks"][name]["changed"] == 0
        assert "details" not in again["benchmarks"][name]["reasons"]


def test_slim_sets_of_an_evaluation_are_those_of_the_prepared_index(run, root, tmp_path):
    invoke("data", "prepare", "all", "--root", root, "--slim", "4")
    invoke("eval", run, "--benchmarks", ",".join(BENCHMARKS), "--data", root, "--subset", "4", "--out", tmp_path)
    import pyarrow.parquet as pq

    for family in FAMILIES.values():
        index = json.loads((root / "datasets" / family.name / "metadata-slim-4.json").read_text())
        wanted = {entry.get("question", entry.get("ref_expression")) for entry in index.values()}
        for name in family.benchmarks if family.name != "text-vqa" else ("textvqa-ocr",):
            asked = pq.read_table(RunFolder(tmp_path).predictions_of(name)).column("question").to_pylist()
            assert set(asked) <= wanted
