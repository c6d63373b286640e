"""Workers on one machine share a study's runs, show what they do on one board, and end with the process they serve."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from eyeswap.errors import SpecError
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import load_study
from eyeswap.progress import RECORD, progress
from eyeswap.study.local_workers import _Shown, default_workers, work_together
from tiny_study import write_tiny_llm, write_tiny_study


@pytest.mark.extended
@pytest.mark.parametrize("count", [1, 2])
def test_workers_do_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    file = write_tiny_study(tmp_path, write_tiny_llm(tmp_path / "llm"), train=8, val=6, benchmarks=("pope",))
    monkeypatch.chdir(tmp_path)
    stream = io.StringIO()

    work_together([str(file), "--runs", "runs"], count, Console(file=stream, width=200))

    assert [run.state() for run in plan_runs(load_study(file), Path("runs"))] == ["done", "done"]
    lines = stream.getvalue().splitlines()
    assert re.match(rf"{count} workers? of \d+ threads? \(--workers\)", lines[0])
    assert sum("training connector and LLM: 1/1" in line for line in lines) == 2
    assert not (tmp_path / "runs/tiny/report").exists()  # which the command writes


def test_an_error_of_all_workers_is_raised_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(SpecError, match=r"missing\.yaml: no such file"):
        work_together([str(tmp_path / "missing.yaml")], 2, Console(file=stream, width=200))
    assert "missing.yaml" not in stream.getvalue()


def test_tasks_and_messages_of_workers_share_a_board() -> None:
    def record(done: int, total: int = 4) -> str:
        return RECORD + json.dumps({"task": 0, "description": "vit", "total": total, "done": done, "note": ""}) + "\n"

    stream = io.StringIO()
    with progress(Console(file=stream, width=200)) as board:
        shown = _Shown(board)
        shown.read(io.StringIO(record(0) + "waiting [bold]\n\n" + record(3) + record(4)))
        shown.read(io.StringIO(record(2, 2) + "waiting [bold]\n" + "error: no weights\n"))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "waiting [bold]"
    assert [line.partition(",")[0] for line in lines[1:]] == ["vit: 4/4"]  # nothing was done for the other
    assert shown.errors == ["no weights"]


def test_a_worker_ends_when_its_standard_input_closes() -> None:
    code = "from eyeswap.study.local_workers import end_with_standard_input as f; f(); print(1, flush=True); "
    command = [sys.executable, "-c", f"{code}import time; time.sleep(60)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        assert worker.poll() is None
        worker.stdin.close()
        assert worker.wait(10) == -15


@pytest.mark.parametrize(
    ("environment", "llm", "expected"),
    [
        ({}, "digits-llm", 2),
        ({"OMP_NUM_THREADS": "1"}, "digits-llm", 1),
        ({"RANK": "0"}, "digits-llm", 1),
        ({}, "lmsys/vicuna-7b-v1.5", 1),
    ],
)
def test_small_runs_on_a_cpu_have_a_worker_for_each_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], llm: str, expected: int
) -> None:
    for name in ("OMP_NUM_THREADS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("eyeswap.study.local_workers.usable_cpus", lambda: 16)
    file = tmp_path / "s.yaml"
    file.write_text(
        f"{{question: '?', recipe: {{data: digits, llm: {llm}}}, arms: {{a: digits-vit, b: digits-vmamba}}, "
        "benchmarks: [pope]}"
    )
    assert default_workers(plan_runs(load_study(file), tmp_path)) == expected
    assert default_workers([]) == 1
