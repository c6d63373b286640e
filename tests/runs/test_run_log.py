"""``run.log`` says what happened to a run, and how a failure came about."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from eyeswap.progress import progress
from eyeswap.runs.log import LOGGER, run_log


def test_finished_tasks_and_messages_are_logged_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.log"
    with progress(Console(file=io.StringIO())) as board:
        board.task("before", 1).advance()
        with run_log(path, "vit, seed 7"):
            board.task("train", 2).advance(2, "loss 1.5")
            board.say("3 records are left out")
        with run_log(path, "vit, seed 7"):
            pass
    lines = [line.partition(" ")[2] for line in path.read_text().splitlines()]
    assert lines[0] == "INFO    vit, seed 7"
    assert lines[2].startswith("INFO    train: 2/2, ")
    assert lines[2].endswith(", loss 1.5")
    assert lines[3:] == [
        "WARNING 3 records are left out",
        "INFO    vit, seed 7: done",
        "INFO    vit, seed 7",
        "INFO    vit, seed 7: done",
    ]
    assert "before" not in path.read_text()


def test_a_failure_leaves_its_traceback(tmp_path: Path) -> None:
    handlers = list(LOGGER.handlers)
    with pytest.raises(ValueError, match="too steep"), run_log(tmp_path / "run.log", "vit"):
        raise ValueError("too steep")
    text = (tmp_path / "run.log").read_text()
    assert "ERROR   vit: ValueError\nTraceback" in text
    assert text.endswith("ValueError: too steep\n")
    assert LOGGER.handlers == handlers


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with run_log(tmp_path / "run.log", "vit", writes=False):
        LOGGER.warning("here")
    assert not (tmp_path / "run.log").exists()
