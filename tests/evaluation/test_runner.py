"""Evaluations that are killed, shared among processes, or meet broken images."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killed_evaluations import BATCH, MOMENTS
from small_evaluation import NUM_IMAGES, asked, encoder, load_model, write_images

from eyeswap.errors import DataError, RunError
from eyeswap.evaluation.benchmark import Outcome
from eyeswap.evaluation.frames import TEST_BOX_FRAMES
from eyeswap.evaluation.predictions import SCHEMA, read_predictions
from eyeswap.evaluation.runner import evaluate
from eyeswap.processes import Ranks
from eyeswap.results.scores import score_run
from eyeswap.tokens.cache import ImageEncoder

NAMES = ("vqav2", "pope", "tallyqa", "refcoco")
NUM_QUESTIONS = len(NAMES) * (3 * NUM_IMAGES + 2)


@pytest.fixture(scope="module")
def lab(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """Evaluations in real processes that end by SIGKILL; the folder and how each process ended."""
    folder = tmp_path_factory.mktemp("killed")
    program = Path(__file__).parent / "killed_evaluations.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(tiny_llm), str(folder)], env=environment, stdout=subprocess.PIPE, check=True
    )
    return folder, json.loads(done.stdout)


def rows(run_dir: Path, name: str) -> list[dict[str, object]]:
    """All columns but the one that no two runs share."""
    return read_predictions(run_dir, name).drop_columns(["latency_s"]).to_pylist()


def asked_in(run_dir: Path) -> Counter[tuple[str, str]]:
    lines = (run_dir / "asked.jsonl").read_text().splitlines()
    return Counter(tuple(key) for line in lines for key in json.loads(line))


def most_in_a_batch(run_dir: Path) -> int:
    return max(len(json.loads(line)) for line in (run_dir / "asked.jsonl").read_text().splitlines())


@pytest.mark.extended
def test_a_killed_evaluation_loses_nothing_and_repeats_at_most_a_batch_a_kill(lab: tuple[Path, dict[str, list[int]]]):
    folder, ended = lab
    assert ended["whole"] == [0]
    assert ended["killed"] == [-9] * len(MOMENTS) + [0]
    for name in NAMES:
        assert rows(folder / "killed", name) == rows(folder / "whole", name)
    once, again = asked_in(folder / "whole"), asked_in(folder / "killed")
    assert set(once.values()) == {1}
    assert sum(once.values()) == NUM_QUESTIONS
    assert set(again) == set(once)
    while_asking = sum(not moment.startswith("merge") for moment, _ in MOMENTS)
    repeated = sum(again.values()) - NUM_QUESTIONS
    assert 0 < repeated <= while_asking * most_in_a_batch(folder / "whole") < NUM_QUESTIONS
    left = {path.name for path in (folder / "killed" / "predictions").iterdir()}
    assert left == {"benchmarks.json", *(f"{name}.parquet" for name in NAMES)}


@pytest.mark.parametrize("how", ["two", "slow", "two-then-one", "one-then-three"])
@pytest.mark.extended
def test_the_number_of_processes_changes_nothing(lab: tuple[Path, dict[str, list[int]]], how: str):
    folder, ended = lab
    assert ended[how] == ([0] if how in ("two", "slow") else [-9, 0])
    for name in NAMES:
        assert rows(folder / how, name) == rows(folder / "whole", name)
    if how in ("two", "slow"):  # each batch once; in "slow" one process takes a single one, and the other all others
        assert asked_in(folder / how) == asked_in(folder / "whole")
    assert list(Ranks().draw("abc")) == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.extended
def test_partial_results_are_scored_with_their_count_and_interval(lab: tuple[Path, dict[str, list[int]]]):
    folder, _ = lab
    partial, whole = (score_run(folder / name).as_json() for name in ("partial", "whole"))
    answered = 0
    for name, about in partial["benchmarks"].items():
        assert about["num_examples"] == whole["benchmarks"][name]["n"] == 3 * NUM_IMAGES + 2
        assert about["interval"][0] <= about["score"] <= about["interval"][1]
        answered += about["n"]
        there = {row["example_id"]: row for row in rows(folder / "whole", name)}
        assert all(row == there[row["example_id"]] for row in rows(folder / "partial", name))
    assert 4 * BATCH <= answered < NUM_QUESTIONS


@pytest.fixture
def whole(tiny_llm: Path, tmp_path: Path) -> Path:
    write_images(tmp_path)
    evaluate(load_model(tiny_llm), encoder(tmp_path), asked(tmp_path), tmp_path / "run")
    return tmp_path


def test_broken_images_and_examples_are_recorded_count_as_wrong_and_stop_nothing(whole: Path, tiny_llm: Path):
    (whole / "3.png").write_bytes(b"no image")
    (whole / "5.png").unlink()
    rows_asked = asked(whole)
    vqa, examples, baseline = rows_asked[0]
    broken = replace(examples[0], truth=())  # no human answer: cannot be scored
    rows_asked[0] = (vqa, [broken, *examples[1:]], baseline)
    evaluate(load_model(tiny_llm), encoder(whole), rows_asked, whole / "again")
    for name in NAMES:
        before = {row["example_id"]: row for row in rows(whole / "run", name)}
        for row in rows(whole / "again", name):
            if row["image"] in ("3.png", "5.png") or (row["example_id"] == broken.example_id and name == "vqav2"):
                assert row["score"] == 0.0
                reason = {"3.png": "not a readable image", "5.png": "no such image"}.get(str(row["image"]), "0 answers")
                assert reason in str(row["error"])
            else:
                assert row == before[row["example_id"]]
    scores = score_run(whole / "again").as_json()
    assert scores["errors"] == len(NAMES) * 6 + 1
    assert scores["benchmarks"]["vqav2"]["errors"] == 7
    assert scores["benchmarks"]["vqav2"]["n"] == 3 * NUM_IMAGES + 2
    assert score_run(whole / "run").errors == 0


def test_each_image_is_read_once_for_all_benchmarks(whole: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    plain = ImageEncoder.read

    def counted(self: ImageEncoder, images: list[str]):
        read.extend(images)
        return plain(self, images)

    monkeypatch.setattr(ImageEncoder, "read", counted)
    told: Counter[str] = Counter()
    evaluate(
        load_model(tiny_llm),
        encoder(whole),
        asked(whole),
        whole / "b",
        lambda name, count: told.update({name: count}),
        2,
    )
    assert sorted(read) == sorted(f"{number}.png" for number in range(NUM_IMAGES))
    assert told == dict.fromkeys(NAMES, 3 * NUM_IMAGES + 2)
    for name in NAMES:  # other batches, same answers
        texts = [[row["answer"] for row in rows(whole / run, name)] for run in ("run", "b")]
        assert texts[0] == texts[1]


def test_a_finished_evaluation_is_not_done_again_and_others_can_join_it(whole: Path, tiny_llm: Path):
    files = {path: path.stat().st_mtime_ns for path in (whole / "run" / "predictions").glob("*.parquet")}
    model = load_model(tiny_llm)
    evaluate(model, encoder(whole), asked(whole), whole / "run")
    assert {path: path.stat().st_mtime_ns for path in files} == files
    evaluate(model, encoder(whole), asked(whole, names=("vqav2", "pope")), whole / "join")
    evaluate(model, encoder(whole), asked(whole, names=("refcoco", "tallyqa")), whole / "join")
    for name in NAMES:
        assert [row["answer"] for row in rows(whole / "join", name)] == [
            row["answer"] for row in rows(whole / "run", name)
        ]
    assert list(json.loads((whole / "join" / "predictions" / "benchmarks.json").read_text())) == [
        "vqav2", "pope", "refcoco", "tallyqa",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["other examples", "other truth", "other mode", "other frame"])
def test_answers_to_other_questions_are_never_taken_for_these(whole: Path, tiny_llm: Path, change: str):
    rows_asked = asked(whole, frame="canvas" if change == "other frame" else "original")
    benchmark, examples, baseline = rows_asked[0]
    if change == "other examples":
        rows_asked[0] = (benchmark, examples[:-1], baseline)
    elif change == "other truth":
        rows_asked[0] = (benchmark, [replace(examples[0], truth=("no",) * 10), *examples[1:]], baseline)
    elif change == "other mode":
        rows_asked[0] = (replace(benchmark, mode="official"), examples, baseline)
    with pytest.raises(RunError, match="has answers to other questions"):
        evaluate(load_model(tiny_llm), encoder(whole), rows_asked, whole / "run")


def test_predictions_have_the_documented_columns(whole: Path):
    for name in NAMES:
        table = pq.read_table(whole / "run" / "predictions" / f"{name}.parquet")
        assert table.schema.names == SCHEMA.names
        assert table.column("example_id").to_pylist() == [
            example.example_id
            for benchmark, examples, _ in asked(whole)
            for example in examples
            if benchmark.name == name
        ]
        given = [row is not None for row in table.column("probabilities").to_pylist()]
        assert all(given) if name in ("pope", "tallyqa") else not any(given)


def test_every_reading_of_a_box_is_kept_whatever_the_frame(
    whole: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
):
    from eyeswap.evaluation.generate import Generation, Generator

    def boxes(self: Generator, tokens: object, questions: list[list[object]]):
        return [[Generation("[0.10, 0.20, 0.50, 0.90]", None, 9, 0.0) for _ in one] for one in questions]

    monkeypatch.setattr(Generator, "answer", boxes)
    model, tables = load_model(tiny_llm), {}
    for frame in TEST_BOX_FRAMES:
        evaluate(model, encoder(whole), asked(whole, frame, ("refcoco",)), whole / frame)
        tables[frame] = rows(whole / frame, "refcoco")
    for original, canvas in zip(tables["original"], tables["canvas"], strict=True):
        assert original["original_iou"] == original["iou"] == original["lenient_iou"] == 1.0
        assert canvas["canvas_iou"] == canvas["iou"] == original["canvas_iou"] < 1.0
        assert canvas["original_iou"] == 1.0
        assert original["box"] == pytest.approx([0.1, 0.2, 0.5, 0.9])
        assert canvas["box"][0] == pytest.approx(0.1)  # the images are wider than high: only y is padded
        assert canvas["box"][1] != pytest.approx(0.2)
        assert original["true_box_px"] == pytest.approx(
            [3.0, 0.2 * original["image_height"], 15.0, 0.9 * original["image_height"]]
        )
        assert original["image_width"] == 30
    readings = {frame: score_run(whole / frame).as_json()["benchmarks"]["refcoco"] for frame in tables}
    assert readings["original"]["readings"]["original"] == readings["original"]["score"] == 100.0
    for frame, entry in readings.items():
        assert entry["box_frame"] == frame
        assert {name: entry["readings"][name] for name in TEST_BOX_FRAMES} == {
            name: readings[name]["score"] for name in TEST_BOX_FRAMES
        }


def test_a_scorer_that_refuses_an_answer_is_an_error_of_that_example_alone(
    whole: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
):
    rows_asked = asked(whole, names=("vqav2",))
    plain = type(rows_asked[0][0]).score

    def score(self: object, example, answer) -> Outcome:
        if example.example_id == "vqav2/2/1":
            raise DataError("example vqav2/2/1: odd")
        return plain(self, example, answer)

    monkeypatch.setattr(type(rows_asked[0][0]), "score", score)
    evaluate(load_model(tiny_llm), encoder(whole), rows_asked, whole / "odd")
    odd = [row for row in rows(whole / "odd", "vqav2") if row["error"] is not None]
    assert [row["error"] for row in odd] == ["example vqav2/2/1: odd"]
    assert odd[0]["score"] == 0.0
    assert odd[0]["answer"] == {row["example_id"]: row for row in rows(whole / "run", "vqav2")}["vqav2/2/1"]["answer"]
