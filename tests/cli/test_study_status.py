"""Status as a table, as JSON, live on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eyeswap.cli import study as study_status
from eyeswap.cli.main import app
from eyeswap.planning.plan import PlannedRun, plan_runs
from eyeswap.planning.spec import load_study
from planned_runs import begin_run
from planned_runs import finish_run as finish

STUDY = """\
question: Which one sees better?
recipe: {data: digits, llm: digits-llm}
arms: {vit: digits-vit, vmamba: digits-vmamba}
benchmarks: [pope]
"""


@pytest.fixture
def planned(tmp_path: Path) -> list[PlannedRun]:
    (tmp_path / "mine.yaml").write_text(STUDY, encoding="utf-8")
    runs = plan_runs(load_study(tmp_path / "mine.yaml"), tmp_path / "runs")
    folder = runs[0].folder
    begin_run(runs[0], num_steps=1250)
    rows = [{"step": step, "loss": 1.25, "elapsed_s": 3.0 * step} for step in range(41)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return runs


def status(planned: list[PlannedRun], *options: str) -> str:
    folder = planned[0].folder.parents[3]
    arguments = ["study", "status", str(folder / "mine.yaml"), "--runs", str(folder / "runs"), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_shows_steps_loss_and_state(planned: list[PlannedRun]) -> None:
    shown = status(planned)
    row = next(line for line in shown.splitlines() if " vit " in line)
    assert all(word in row for word in ("interrupted", "41/1,250", "1.250", "3 s", "0 of 1"))
    assert "1 interrupted, 1 new" in shown


def test_json_has_every_run(planned: list[PlannedRun]) -> None:
    found = json.loads(status(planned, "--json"))
    assert [run["arm"] for run in found["runs"]] == ["vit", "vmamba"]
    assert found["runs"][0]["left_s"] == pytest.approx(3 * (1250 - 41))


def test_without_a_terminal_a_line_comes_with_each_change_until_all_are_done(
    planned: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(planned)
    monkeypatch.setattr(study_status.time, "sleep", lambda seconds: finish(next(looks)))
    lines = status(planned, "--watch").splitlines()
    assert lines[0].startswith("vit, seed 7: interrupted, 41/1,250 steps, loss 1.250")
    assert [line.split(",")[1].partition(": ")[2] for line in lines] == ["interrupted", "new", "done", "done"]


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_a_table_that_lives(
    planned: list[PlannedRun], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        "eyeswap.console.open_console",
        lambda: Console(file=screen, force_terminal=True, width=width, height=40),
    )
    looks = iter(planned)
    monkeypatch.setattr(study_status.time, "sleep", lambda seconds: finish(next(looks)))
    study_status.watch_status(planned)
    assert "41/1,250" in screen.getvalue()
    assert "2 done" in screen.getvalue()


def test_leaving_the_watch_is_no_error(planned: list[PlannedRun], monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_status.time, "sleep", leave)
    assert "interrupted" in status(planned, "--watch")
