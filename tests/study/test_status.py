"""The status of a run follows its files: what it does, how fast, who holds it, and how it was lost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyeswap.planning.plan import PlannedRun, plan_runs
from eyeswap.planning.spec import Study
from eyeswap.runs.seal import write_seal
from eyeswap.study.claim import STALE_S, claim
from eyeswap.study.status import status_of
from planned_runs import begin_run, finish_run


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    value = {
        "name": "s",
        "question": "?",
        "recipe": {"data": "digits", "llm": "digits-llm"},
        "arms": {"vit": "digits-vit"},
        "benchmarks": ["pope", "refcoco"],
    }
    return plan_runs(Study.model_validate(value), tmp_path)[0]


def begin(run: PlannedRun, rows: int = 0, num_steps: int = 100) -> None:
    begin_run(run, num_steps=num_steps)
    text = "".join(json.dumps({"step": n, "loss": 3.0 - n / 100, "elapsed_s": 0.5 * n}) + "\n" for n in range(rows))
    (run.folder / "train.jsonl").write_text(text, encoding="utf-8")


def answer(run: PlannedRun, name: str, count: int) -> None:
    (run.folder / "predictions" / "parts").mkdir(parents=True, exist_ok=True)
    known = {"title": "t", "metric": "m"}
    about = {
        "pope": {**known, "group": "vqa", "num_examples": 10},
        "refcoco": {**known, "group": "localization", "num_examples": 20},
    }
    (run.folder / "predictions" / "benchmarks.json").write_text(json.dumps(about), encoding="utf-8")
    table = pa.table({"benchmark": [name] * count, "example_id": [str(n) for n in range(count)]})
    pq.write_table(table, run.folder / "predictions" / "parts" / f"part-{name}-{count}.parquet")


def test_a_run_goes_from_new_to_done(run: PlannedRun) -> None:
    assert status_of(run).activity == "new"
    mine = claim(run.folder)
    assert mine is not None
    assert (status_of(run).activity, status_of(run).worker) == ("preparing", mine.holder.worker)
    begin(run, rows=41)
    assert status_of(run).activity == "training"
    (run.folder / "model").mkdir()
    assert status_of(run).activity == "answering"
    finish_run(run)
    mine.release("done")
    assert (status_of(run).activity, status_of(run).worker) == ("done", None)


def test_speed_and_time_left_are_those_of_the_last_steps(run: PlannedRun) -> None:
    begin(run, rows=90)
    at = status_of(run)
    assert (at.step, at.num_steps, at.loss) == (90, 100, pytest.approx(2.11))
    assert at.step_s == pytest.approx(0.5)
    assert at.left_s == pytest.approx(5.0)
    begin(run, rows=1)
    assert status_of(run).left_s is None


def test_a_line_that_is_being_written_or_is_no_row_does_not_count(run: PlannedRun) -> None:
    begin(run, rows=3)
    with (run.folder / "train.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 9}\n[]\nfree text\n{"step": 3, "lo')
    assert status_of(run).step == 3


def test_of_a_long_log_the_end_is_read(run: PlannedRun) -> None:
    begin(run, rows=5000)
    assert status_of(run).step == 5000


def test_answers_are_counted_in_parts_and_in_whole_files(run: PlannedRun) -> None:
    begin(run)
    answer(run, "pope", 4)
    at = status_of(run)
    assert (at.answered, at.asked, at.num_finished) == (
        {"pope": 4, "refcoco": 0},
        {"pope": 10, "refcoco": 20},
        0,
    )
    pq.write_table(pa.table({"example_id": ["x"] * 10}), run.folder / "predictions" / "pope.parquet")
    assert (status_of(run).answered["pope"], status_of(run).num_finished) == (10, 1)


def test_a_run_that_nobody_holds_says_how_it_was_left(run: PlannedRun) -> None:
    begin(run, rows=3)
    assert status_of(run).activity == "interrupted"
    mine = claim(run.folder)
    assert mine is not None
    mine.release("failed", "loss is nan")
    assert (status_of(run).activity, status_of(run).message) == ("failed", "loss is nan")
    mine = claim(run.folder)
    assert mine is not None
    mine.release("interrupted")
    assert status_of(run).activity == "interrupted"
    last = max((run.folder / "workers").glob("*.json"))
    last.write_text(json.dumps({**json.loads(last.read_text()), "machine": "other", "end": None}), encoding="utf-8")
    assert status_of(run).activity == "training"  # another machine's worker, heard of a moment ago
    os.utime(last, (time.time() - STALE_S - 5,) * 2)
    assert (status_of(run).activity, status_of(run).worker) == ("lost", None)


def test_a_run_of_another_study_text_is_told_so(run: PlannedRun) -> None:
    begin_run(run, model=run.model.model_copy(update={"seed": 8}))
    assert status_of(run).activity == "changed"


@pytest.mark.parametrize("damage", ["scores", "parquet", "cut parquet", "missing parquet", "rows", "record", "seal"])
def test_a_run_whose_results_do_not_read_is_never_done(run: PlannedRun, damage: str) -> None:
    finish_run(run)
    assert status_of(run).activity == "done"
    path = run.files.predictions_of("pope")
    if damage == "missing parquet":
        path.unlink()
    elif damage == "seal":
        write_seal(run.folder)
        assert status_of(run).activity == "done"
        path = run.files.scores
        path.write_bytes(path.read_bytes() + b"\n")
    elif damage == "rows":
        pq.write_table(pa.table({"example_id": ["x", "y"]}), path)
    elif damage == "cut parquet":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        broken = {"scores": run.files.scores, "parquet": path, "record": run.files.record}[damage]
        broken.write_text('{"averages": ', encoding="utf-8")
    status = status_of(run)
    assert status.activity != "done"
    if damage != "missing parquet":  # that is asked again
        assert status.activity == "damaged"
        assert status.message
