"""`eyeswap eval` on a saved VLM and the embedded data set in its official folders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.data.digits.write import DigitsSize, write_digits
from eyeswap.data.formats import write_gqa, write_textvqa, write_vizwiz
from eyeswap.evaluation import BENCHMARKS, get_benchmark
from eyeswap.evaluation.predictions import read_predictions
from eyeswap.files import read_json
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

NAMES = "vqav2,pope,tallyqa,refcoco"


@pytest.fixture(scope="module")
def saved(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model/`` (untrained, real backbone) and ``data/``."""
    folder = tmp_path_factory.mktemp("eval")
    write_digits(folder / "data", DigitsSize(1, 8, 24, 4))
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector("gelu-mlp", 128, 32, seed=1)
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, load_backbone("digits-vit")).save(
        folder / "model"
    )
    return folder


def run(saved: Path, *options: str, data: bool = True) -> Result:
    where = ["--data", str(saved / "data")] if data else []
    return CliRunner().invoke(app, ["eval", str(saved), *where, *options])


def test_benchmarks_are_asked_scored_and_shown(saved: Path):
    result = run(saved, "--benchmarks", NAMES, "--subset", "4", "--out", str(saved / "four"))
    assert result.exit_code == 0, result.output
    for title in ("VQA v2", "POPE", "TallyQA", "RefCOCO", "overall", "95% interval", "invalid", "errors"):
        assert title in result.stdout
    scores = read_json(saved / "four" / "scores.json")
    assert scores["benchmarks"]["vqav2"]["n"] == scores["benchmarks"]["refcoco"]["n"] == 4
    frames = {"original", "study", "padded-square", "canvas"}
    assert set(scores["benchmarks"]["refcoco"]["readings"]) == {*frames, "lenient"}
    assert scores["benchmarks"]["refcoco"]["box_frame"] == "original"
    assert "boxes in every frame, percent; * is the reported score" in result.stdout
    again = run(saved, "--benchmarks", NAMES, "--subset", "4", "--out", str(saved / "four"), "--json")
    assert json.loads(again.stdout)["benchmarks"] == scores["benchmarks"]
    rescored = CliRunner().invoke(app, ["score", str(saved / "four"), "--json"])
    assert json.loads(rescored.stdout)["benchmarks"]["pope"]["score"] == scores["benchmarks"]["pope"]["score"]


def test_an_evaluation_reads_a_shared_store_of_tokens_and_answers_the_same(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ("--benchmarks", "tallyqa,refcoco", "--subset", "3")
    assert run(saved, *options, "--out", str(tmp_path / "computed")).exit_code == 0
    words = ["--backbone", "digits-vit", "--data", str(saved / "data"), "--out", str(tmp_path / "tokens")]
    assert CliRunner().invoke(app, ["tokens", "cache", "--device", "cpu", *words]).exit_code == 0
    monkeypatch.setenv("EYESWAP_TOKENS", str(tmp_path / "tokens"))

    def refuse(*arguments: object) -> None:
        raise AssertionError("the backbone was run")

    monkeypatch.setattr("eyeswap.tokens.cache.encode", refuse)
    result = run(saved, *options, "--out", str(tmp_path / "stored"))
    assert result.exit_code == 0, result.output
    for name in ("tallyqa", "refcoco"):
        computed, stored = (
            read_predictions(tmp_path / folder, name).drop(["latency_s"]) for folder in ("computed", "stored")
        )
        assert computed.equals(stored)


def add_the_other_three(root: Path) -> None:
    """Write GQA, VizWiz and TextVQA, which the embedded data set lacks, from its VQA v2 questions."""
    vqa = get_benchmark("vqav2").examples(root)
    images, download = {example.image: example.image_id for example in vqa}, root / "download"
    folders = {"gqa": "images", "vizwiz": "val_images", "text-vqa": "train_val_images"}
    for family, folder in folders.items():
        (download / family / folder).mkdir(parents=True)
        for image, image_id in images.items():
            shutil.copy(root / image, download / family / folder / f"{image_id}.jpg")
    named = [replace(example, image=f"{example.image_id}.jpg") for example in vqa]
    one_answer = [replace(example, truth=example.truth[0]) for example in named]
    write_gqa(download / "gqa" / "testdev_balanced_questions.json", one_answer)
    write_vizwiz(download / "vizwiz" / "val.json", [replace(one, subset="answerable") for one in named])
    files = [download / "text-vqa" / name for name in ("TextVQA_0.5.1_val.json", "textvqa_val_v051_ocr.jsonl")]
    write_textvqa(*files, [replace(one, details={"ocr": "STOP, 7"}) for one in named])


def test_every_benchmark_is_evaluated_from_its_official_files(saved: Path, tmp_path: Path):
    shutil.copytree(saved / "data", tmp_path / "data")
    add_the_other_three(tmp_path / "data")
    options = ["--benchmarks", ",".join(BENCHMARKS), "--subset", "3", "--out", str(tmp_path / "all")]
    result = CliRunner().invoke(app, ["eval", str(saved), "--data", str(tmp_path / "data"), *options])
    assert result.exit_code == 0, result.output
    scores = read_json(tmp_path / "all" / "scores.json")
    assert list(scores["benchmarks"]) == list(BENCHMARKS)
    assert scores["errors"] == 0
    rows = {name: read_predictions(tmp_path / "all", name).to_pylist() for name in BENCHMARKS}
    assert "Reference OCR token: STOP, 7" in rows["textvqa-ocr"][0]["prompt"]
    assert "Reference OCR token" not in rows["textvqa-pure"][0]["prompt"]
    assert "respond with 'Unanswerable'" in rows["vizwiz"][0]["prompt"]
    assert all(row["num_tokens"] == 1 for name in ("pope", "tallyqa") for row in rows[name])


def test_the_result_lies_beside_the_model_by_default(saved: Path):
    result = run(saved, "--benchmarks", "pope", "--subset", "2", "--mode", "study", "--batch", "3")
    assert result.exit_code == 0, result.output
    assert (saved / "evaluations" / "data-2-study" / "predictions" / "pope.parquet").is_file()
    record = read_json(saved / "evaluations" / "data-2-study" / "evaluation.json")
    assert (record["box_frame"], record["precision"]) == ("original", "fp32")


def test_another_evaluation_in_the_same_folder_is_refused(saved: Path):
    options = ["--benchmarks", "pope", "--subset", "3", "--out", str(saved / "kept")]
    assert run(saved, *options).exit_code == 0
    result = run(saved, *options, "--box-frame", "canvas")
    assert result.exit_code == 1
    assert "holds an evaluation with different box_frame" in result.stderr
    assert run(saved, *options, "--batch", "1").exit_code == 0  # the batch changes nothing


def test_prompts_are_printed_whole_and_without_weights(saved: Path, tmp_path: Path):
    light = tmp_path / "light"
    shutil.copytree(saved / "model", light / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    options = ["--benchmarks", "vqav2,pope,refcoco", "--subset", "4", "--show-prompts", "2"]
    shown = CliRunner().invoke(app, ["eval", str(light), "--data", str(saved / "data"), *options])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("--- ") == 6
    assert "Please provide the bounding box coordinate of the region this sentence describes" in shown.stdout
    assert "answered by Yes or No" in shown.stdout
    assert "64 visual tokens first" in shown.stdout
    found = json.loads(run(saved, *options, "--json").stdout)
    assert [about["benchmark"] for about in found] == ["vqav2"] * 2 + ["pope"] * 2 + ["refcoco"] * 2
    assert found[0]["prompt"].startswith("USER: ")
    assert found[0]["prompt"].endswith(" ASSISTANT:")


def test_broken_images_are_counted_and_named(saved: Path, tmp_path: Path):
    shutil.copytree(saved / "data", tmp_path / "data")
    for image in (tmp_path / "data" / "download" / "pope" / "val_images").iterdir():
        image.write_bytes(b"no image")
        break
    result = CliRunner().invoke(
        app,
        ["eval", str(saved), "--data", str(tmp_path / "data"), "--benchmarks", "pope", "--out", str(tmp_path / "out")],
    )
    assert result.exit_code == 0, result.output
    scores = read_json(tmp_path / "out" / "scores.json")
    assert scores["errors"] > 0
    assert f"{scores['errors']} questions could not be asked or scored and count as wrong:" in result.stdout
    assert "not a readable image" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmarks", "vqav3"], 'unknown benchmark "vqav3". Did you mean vqav2?'),
        (["--benchmarks", "pope", "--subset", "some"], "--subset some: write slim"),
        (
            ["--benchmarks", "pope", "--mode", "officiall"],
            "'--mode': 'officiall' is not one of 'study', 'official'",
        ),
        (["--benchmarks", "gqa"], "testdev_balanced_questions.json"),
        ([], "belongs to no study; give --benchmarks and --data"),
    ],
)
def test_mistakes_are_one_line(saved: Path, options: list[str], message: str):
    result = run(saved, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    result = run(tmp_path, "--benchmarks", "pope")
    assert result.exit_code == 1
    assert "no trained model here" in result.stderr


def test_blanked_and_shuffled_images_are_evaluations_of_their_own(saved: Path, tmp_path: Path):
    shutil.copytree(saved / "model", tmp_path / "model")
    (tmp_path / "data").symlink_to(saved / "data")
    options = ["--benchmarks", "pope,refcoco", "--subset", "6", "--data", str(tmp_path / "data")]
    answers = {}
    for images in ("as-is", "blanked", "shuffled"):
        result = CliRunner().invoke(app, ["eval", str(tmp_path), *options, "--images", images])
        assert result.exit_code == 0, result.output
        suffix = "" if images == "as-is" else f"-{images}"
        folder = tmp_path / "evaluations" / f"data-6-study{suffix}"
        about = read_json(folder / "evaluation.json")
        assert about.get("images", "as-is") == images
        table = read_predictions(folder, "pope")
        answers[images] = dict(zip(table["example_id"].to_pylist(), table["probabilities"].to_pylist(), strict=True))
    assert answers["as-is"].keys() == answers["blanked"].keys() == answers["shuffled"].keys()
    assert answers["as-is"] != answers["blanked"]
    assert answers["as-is"] != answers["shuffled"]


def test_images_are_as_is_blanked_or_shuffled(saved: Path):
    result = run(saved, "--benchmarks", "pope", "--images", "blank")
    assert result.exit_code == 2
    assert "'blank' is not one of 'as-is', 'blanked', 'shuffled'" in result.stderr
