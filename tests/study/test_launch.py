"""Workers share a study's runs: each run is done once, whoever dies, and a failure does not stop the others."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from eyeswap.errors import RunError
from eyeswap.planning.plan import PlannedRun, plan_runs
from eyeswap.planning.spec import Study
from eyeswap.processes import Ranks
from eyeswap.study import launch as module
from eyeswap.study.claim import claim, holder_of
from eyeswap.study.launch import work_through
from planned_runs import finish_run as finish

ALONE = Ranks(0, 1, torch.device("cpu"))

WORKER = """
import io, json, sys, time
from pathlib import Path
import torch
from rich.console import Console
from eyeswap.study import launch
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import Study
from eyeswap.processes import Ranks
from planned_runs import finish_run
launch.POLL_S = 0.05
name, runs, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
study = Study.model_validate(json.loads(sys.argv[4]))

def do(run):
    with (runs / "begun.txt").open("a") as stream:
        stream.write(f"{name} {run.arm}\\n")
    time.sleep(seconds)
    finish_run(run)

launch.work_through(plan_runs(study, runs), do, Console(file=io.StringIO()), Ranks(0, 1, torch.device("cpu")))
"""


def study(num_arms: int) -> Study:
    value = {
        "name": "s",
        "question": "?",
        "recipe": {"data": "digits", "llm": "digits-llm"},
        "arms": {f"arm-{number}": "digits-vit" for number in range(num_arms)},
        "benchmarks": ["pope"],
    }
    return Study.model_validate(value)


def start(name: str, runs: Path, seconds: float, num_arms: int) -> subprocess.Popen[bytes]:
    text = json.dumps(study(num_arms).model_dump(mode="json"))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", WORKER, name, str(runs), str(seconds), text]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def begun(runs: Path) -> list[list[str]]:
    path = runs / "begun.txt"
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)


@pytest.mark.extended
def test_two_workers_share_the_runs_and_a_killed_one_loses_none(tmp_path: Path) -> None:
    doomed = start("doomed", tmp_path, 60.0, 4)
    deadline = time.monotonic() + 60
    while not begun(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    helper = start("helper", tmp_path, 0.05, 4)
    while len(begun(tmp_path)) < 4:  # the helper has done the other three, and waits for the fourth
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert helper.poll() is None
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    assert helper.wait(timeout=30) == 0
    assert begun(tmp_path)[0] == ["doomed", "arm-0"]
    assert sorted(begun(tmp_path)[1:]) == [["helper", f"arm-{number}"] for number in range(4)]
    planned = plan_runs(study(4), tmp_path)
    assert all(run.state() == "done" for run in planned)
    ends = [holder_of(run.folder) for run in planned]
    assert [one.end for one in ends if one] == ["done"] * 4
    assert [one.number for one in ends if one] == [2, 1, 1, 1]


def test_finished_runs_are_skipped_and_the_rest_done_in_order(tmp_path: Path) -> None:
    planned = plan_runs(study(3), tmp_path)
    finish(planned[1])
    order: list[str] = []

    def do(run: PlannedRun) -> None:
        order.append(run.arm)
        finish(run)

    work_through(planned, do, Console(file=io.StringIO()), ALONE)
    assert order == ["arm-0", "arm-2"]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    planned = plan_runs(study(3), tmp_path)

    def do(run: PlannedRun) -> None:
        if run.arm == "arm-1":
            raise RunError("loss is nan at step 3")
        finish(run)

    with pytest.raises(RunError, match=r"1 of 3 runs failed: arm-1/seed-7; first: loss is nan at step 3"):
        work_through(planned, do, Console(file=io.StringIO()), ALONE)
    assert [run.state() for run in planned] == ["done", "new", "done"]
    last = holder_of(planned[1].folder)
    assert last is not None
    assert (last.end, last.message) == ("failed", "loss is nan at step 3")
    work_through(planned, finish, Console(file=io.StringIO()), ALONE)  # the next worker tries again
    assert planned[1].state() == "done"


def test_a_mistake_in_our_own_code_is_not_hidden(tmp_path: Path) -> None:
    def do(run: PlannedRun) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work_through(plan_runs(study(2), tmp_path), do, Console(file=io.StringIO()), ALONE)


def test_an_interrupted_worker_lets_go_of_its_run(tmp_path: Path) -> None:
    planned = plan_runs(study(2), tmp_path)

    def do(run: PlannedRun) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_through(planned, do, Console(file=io.StringIO()), ALONE)
    again = claim(planned[0].folder)
    assert again is not None
    again.release("done")


def test_who_is_waited_for_is_told_once(tmp_path: Path) -> None:
    planned = plan_runs(study(1), tmp_path)
    other = claim(planned[0].folder)
    assert other is not None
    shown = io.StringIO()
    naps = 0

    def nap(seconds: float) -> None:
        nonlocal naps
        naps += 1
        if naps == 3:
            finish(planned[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", nap)
        work_through(planned, finish, Console(file=shown, width=200), ALONE)
    other.release("done")
    assert shown.getvalue().count("waiting") == 1
    assert f"arm-0, seed 7: held by {other.holder.worker}" in shown.getvalue()
