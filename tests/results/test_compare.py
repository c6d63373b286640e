"""Any two runs join example by example, and what does not join is counted and named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import BENCHMARKS
from eyeswap.results.compare import compare_runs
from eyeswap.results.scores import score_run
from eyeswap.statistics.differences import compare_arms
from eyeswap.statistics.resampling import Sample
from official_files import NUM_QUESTIONS, write_official_files, write_predictions


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    write_official_files(folder)
    return folder


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    write_predictions(first, root, list(BENCHMARKS), seed=1)
    write_predictions(second, root, list(BENCHMARKS), seed=2)
    return first, second


def rewrite(path: Path, change) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def test_the_difference_is_that_of_the_scores_and_its_interval_that_of_the_statistics(runs):
    found = compare_runs(*runs)
    first, second = (score_run(run).as_json() for run in runs)
    assert list(found["benchmarks"]) == list(BENCHMARKS)
    for table in ("benchmarks", "averages"):
        for name, entry in found[table].items():
            assert entry["first"] == pytest.approx(first[table][name]["score"], abs=1e-3)
            assert entry["second"] == pytest.approx(second[table][name]["score"], abs=1e-3)
            assert entry["difference"] == pytest.approx(entry["second"] - entry["first"])
            assert entry["p_holm"] >= entry["p"]
    a, b = (pq.read_table(run / "predictions" / "gqa.parquet").to_pydict() for run in runs)
    interval, p = compare_arms(Sample([np.stack([b["score"], a["score"]])], [a["image"]]))[0, 1]
    assert found["benchmarks"]["gqa"]["interval"] == pytest.approx([100 * interval.low, 100 * interval.high])
    assert found["benchmarks"]["gqa"]["p"] == pytest.approx(p)
    only_a = sum(x > y for x, y in zip(a["score"], b["score"], strict=True))
    assert found["benchmarks"]["gqa"]["mcnemar"]["only_first"] == only_a
    assert found["notes"] == []


def test_other_modes_are_told(runs, tmp_path, root):
    write_predictions(tmp_path, root, ["gqa"])
    index = tmp_path / "predictions" / "benchmarks.json"
    index.write_text(index.read_text().replace('"study"', '"official"'))
    notes = compare_runs(runs[0], tmp_path)["notes"]
    assert notes == ["gqa: the first run was asked and scored in study mode, the second in official mode"]


def test_soft_scores_have_no_mcnemar_test(runs, tmp_path, root):
    write_predictions(tmp_path, root, ["vqav2"])
    rewrite(
        tmp_path / "predictions" / "vqav2.parquet",
        lambda table: table.set_column(table.column_names.index("score"), "score", [np.full(NUM_QUESTIONS, 0.3)]),
    )
    assert compare_runs(runs[0], tmp_path)["benchmarks"]["vqav2"]["mcnemar"] is None


def test_a_run_does_not_differ_from_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert all(entry["difference"] == 0 and entry["p"] == 1 for entry in found["benchmarks"].values())
    assert all(entry["examples"] == [] for entry in found["benchmarks"].values())


def test_order_does_not_matter_and_what_lacks_a_partner_is_counted_and_named(runs, tmp_path, root):
    write_predictions(tmp_path, root, ["gqa"], seed=2)
    whole = compare_runs(runs[0], tmp_path)["benchmarks"]["gqa"]
    path = tmp_path / "predictions" / "gqa.parquet"
    rewrite(path, lambda table: table.take(list(reversed(range(NUM_QUESTIONS)))))
    turned = compare_runs(runs[0], tmp_path)["benchmarks"]["gqa"]
    assert {key: whole[key] for key in ("n", "difference", "interval")} == {
        key: turned[key] for key in ("n", "difference", "interval")
    }
    rewrite(path, lambda table: table.slice(0, 40))
    found = compare_runs(tmp_path, runs[0])
    assert found["benchmarks"]["gqa"]["n"] == 40
    assert found["benchmarks"]["gqa"]["unjoined"]["second"]["n"] == 20
    assert found["benchmarks"]["gqa"]["unjoined"]["second"]["ids"][:2] == ["900", "901"]
    assert found["notes"] == ["gqa: 40 examples are compared; 20 only in the second run (900, 901, 902, ...)"]


def test_the_same_id_with_another_question_is_not_joined(runs, tmp_path, root):
    write_predictions(tmp_path, root, ["gqa"])
    rewrite(
        tmp_path / "predictions" / "gqa.parquet",
        lambda table: table.set_column(
            table.column_names.index("question"), "question", [["new?", *table.column("question").to_pylist()[1:]]]
        ),
    )
    found = compare_runs(runs[0], tmp_path)
    assert found["benchmarks"]["gqa"]["n"] == NUM_QUESTIONS - 1
    assert found["notes"] == [
        f"gqa: {NUM_QUESTIONS - 1} examples are compared; 1 asked differently in the two runs (900)"
    ]


def test_examples_are_those_on_which_the_runs_differ_most(runs):
    found = compare_runs(*runs, num_examples=4)["benchmarks"]["textvqa-pure"]["examples"]
    distances = [abs(row["scores"][0] - row["scores"][1]) for row in found]
    assert len(found) == 4
    assert distances == sorted(distances, reverse=True)
    assert all(distances)
    assert json.dumps(found)


def test_an_unfinished_run_is_compared_as_far_as_it_is(runs, tmp_path, root):
    write_predictions(tmp_path, root, ["pope", "refcoco"], keep=0.5)
    found = compare_runs(runs[0], tmp_path)
    assert {name: entry["n"] for name, entry in found["benchmarks"].items()} == {"pope": 30, "refcoco": 30}
    assert found["averages"].keys() == {"vqa", "localization", "overall"}


def test_runs_that_cannot_be_compared_are_refused_in_one_line(runs, tmp_path, root):
    write_predictions(tmp_path / "a", root, ["pope"])
    write_predictions(tmp_path / "b", root, ["gqa"])
    with pytest.raises(SpecError, match=r"share no benchmark"):
        compare_runs(tmp_path / "a", tmp_path / "b")
    with pytest.raises(SpecError, match=r"did not both answer 'gqa'. Allowed: pope"):
        compare_runs(tmp_path / "a", runs[0], ["gqa"])
    with pytest.raises(SpecError, match=r"no predictions; pass"):
        compare_runs(tmp_path, runs[0])
    path = tmp_path / "a" / "predictions" / "pope.parquet"
    rewrite(
        path,
        lambda table: table.set_column(0, "example_id", [[f"x{n}" for n in range(NUM_QUESTIONS)]]),
    )
    with pytest.raises(DataError, match=r"have no example in common"):
        compare_runs(tmp_path / "a", runs[0])
