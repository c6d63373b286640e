"""Stored predictions are scored again without the model: same scores in study mode, the official ones on request."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import BENCHMARKS, get_benchmark
from eyeswap.files import read_json
from eyeswap.results.rescore import rescore, rescore_benchmarks
from eyeswap.results.scores import score_run
from official_files import NUM_QUESTIONS, write_official_files, write_predictions


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    write_official_files(folder)
    return folder


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_predictions(folder, root, list(BENCHMARKS), seed=1)
    return folder


def change(run: Path, name: str, **columns: list) -> None:
    path = run / "predictions" / f"{name}.parquet"
    table = pq.read_table(path)
    for column, values in columns.items():
        table = table.set_column(table.column_names.index(column), table.schema.field(column), [values])
    pq.write_table(table, path)


def test_study_mode_gives_the_stored_scores_of_every_benchmark(run):
    again, stored = rescore(run), score_run(run).as_json()
    assert again["averages"] == stored["averages"]
    for name, entry in stored["benchmarks"].items():
        assert again["benchmarks"][name]["changed"] == 0
        assert {key: again["benchmarks"][name][key] for key in entry} == entry


@pytest.mark.parametrize("mode", ["study", "official"])
def test_details_are_those_of_the_benchmark_that_saw_the_examples_themselves(run, root, mode):
    for one in rescore_benchmarks(run, mode):
        benchmark = get_benchmark(one.benchmark.name, mode)
        answers = {outcome.example.example_id: outcome for outcome in one.outcomes}
        outcomes = []
        for example in benchmark.examples(root):
            answer = answers[example.example_id]
            told = answer.probabilities if benchmark.answer_kind == "choice" else answer.answer
            outcomes.append(benchmark.score(example, told))
        assert one.benchmark.details(one.outcomes) == benchmark.details(outcomes)


def test_official_mode_scores_by_the_official_rules_and_leaves_baselines_out(run, tmp_path, root):
    write_predictions(tmp_path, root, ["vqav2", "pope"])
    change(tmp_path, "vqav2", answer=["A"] * NUM_QUESTIONS)  # the truths are lower-case, an article, and not all equal
    study, official = rescore(tmp_path), rescore(tmp_path, "official")
    assert study["benchmarks"]["vqav2"]["score"] == 0
    assert official["benchmarks"]["vqav2"]["score"] == 100  # the official rule drops the article on both sides
    assert study["benchmarks"]["vqav2"]["changed"] > 0
    assert official["benchmarks"]["vqav2"]["baseline"] is None
    assert official["averages"]["vqa"]["gain"] is None
    assert "generated text" in official["benchmarks"]["pope"]["note"]
    assert official["benchmarks"]["pope"]["details"]["f1/random"] is not None


def test_an_unfinished_evaluation_is_scored_as_far_as_it_is(root, tmp_path):
    write_predictions(tmp_path, root, ["gqa", "ocid-ref"], keep=0.4)
    entry = rescore(tmp_path)["benchmarks"]["gqa"]
    assert (entry["n"], entry["num_examples"]) == (24, 60)
    assert entry["interval"][0] <= entry["score"] <= entry["interval"][1]


def test_answers_stored_without_their_details_are_joined_with_the_files(run, root, tmp_path):
    write_predictions(tmp_path, root, ["vqav2"], seed=1)
    change(tmp_path, "vqav2", details=pa.array([None] * NUM_QUESTIONS, pa.string()))
    bare = rescore(tmp_path)["benchmarks"]["vqav2"]
    assert bare["details"] == {}
    assert "pass the data root" in bare["reasons"]["details"]
    joined = rescore(tmp_path, root=root)["benchmarks"]["vqav2"]
    assert joined["details"] == rescore(run)["benchmarks"]["vqav2"]["details"]
    change(tmp_path, "vqav2", truth=[json.dumps(["other"] * 10)] * NUM_QUESTIONS)
    with pytest.raises(DataError, match="example 500 differs from that of the data root"):
        rescore(tmp_path, root=root)


def test_a_recorded_error_stays_wrong(root, tmp_path):
    write_predictions(tmp_path, root, ["gqa"])
    change(
        tmp_path, "gqa", answer=["dog"] * NUM_QUESTIONS, error=["not a readable image"] + [None] * (NUM_QUESTIONS - 1)
    )
    entry = rescore(tmp_path)["benchmarks"]["gqa"]
    assert entry["score"] == pytest.approx(100 * (NUM_QUESTIONS - 1) / NUM_QUESTIONS, abs=1e-3)
    assert entry["errors"] == 1


def test_published_weights_replace_the_counts_at_hand(run):
    counts, published = rescore(run), rescore(run, weights="published")
    assert counts["benchmarks"] == published["benchmarks"]
    scores = {name: entry["score"] for name, entry in published["benchmarks"].items()}
    weights = {name: BENCHMARKS[name].num_published for name in scores if BENCHMARKS[name].group == "vqa"}
    expected = sum(scores[name] * weight for name, weight in weights.items()) / 288_750
    assert published["averages"]["vqa"]["score"] == pytest.approx(expected, abs=1e-3)


def test_an_own_benchmark_is_scored_from_its_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(
            json.dumps({"id": n, "image": "a.jpg", "question": "?", "choices": ["x", "y"], "answer": "y"}) for n in "ab"
        )
    )
    file = tmp_path / "mine.yaml"
    file.write_text("{metric: multiple-choice, data: rows.jsonl}")
    run = tmp_path / "run"
    write_predictions(run, tmp_path, [str(file)])
    assert read_json(run / "predictions" / "benchmarks.json")["mine"]["benchmark"] == str(file.resolve())
    entry = rescore(run)["benchmarks"]["mine"]
    assert (entry["changed"], entry["n"], entry["metric"]) == (0, 2, "multiple-choice")


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(SpecError, match="no predictions; pass the folder of a run"):
        rescore(tmp_path)
    with pytest.raises(SpecError, match=r"no predictions for 'vqa'\. Did you mean vqav2"):
        rescore(run, names=["vqa"])
