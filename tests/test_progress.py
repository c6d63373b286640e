"""Progress is shown as bars on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from eyeswap.progress import Progress, progress


def shown(*, terminal: bool, total: int = 4) -> str:
    stream = io.StringIO()
    with progress(Console(file=stream, force_terminal=terminal, width=120)) as board:
        assert list(board.track(range(total), "train vit", total)) == list(range(total))
    return stream.getvalue()


def test_a_pipe_gets_one_plain_line_at_the_end_of_short_work() -> None:
    text = shown(terminal=False)
    assert text.count("\n") == 1
    assert text.startswith("train vit: 4/4, ")
    assert "took 0:00" in text


def test_a_terminal_gets_a_bar_with_the_count() -> None:
    text = shown(terminal=True)
    assert "train vit" in text
    assert "4/4" in text
    assert "\x1b[" in text


def test_a_line_tells_rate_time_left_and_note() -> None:
    with progress(Console(file=io.StringIO())) as board:
        task = board.task("train", total=100)
        task.done = 20
        line = task.line(task._started + 10.0, note="loss 1.5")
    assert line == "train: 20/100, 2.0/s, 0:40 left, loss 1.5"


def test_slow_work_is_told_in_seconds_a_step() -> None:
    with progress(Console(file=io.StringIO())) as board:
        task = board.task("train", total=2)
        assert "time left unknown" in task.line(task._started + 1.0)
        task.done = 1
        assert task.line(task._started + 4000.0) == "train: 1/2, 4000.0 s each, 1:06:40 left"


def test_what_was_done_before_does_not_count_for_the_rate() -> None:
    task = Progress(Console(quiet=True)).task("train", total=100, done=80)
    task.advance(10)
    line = task.line(task._started + 5)
    assert line.startswith("train: 90/100, 2.0/s, 0:05 left")


def test_the_time_left_follows_the_last_minute_after_a_slow_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress(Console(file=io.StringIO())) as board:
        task = board.task("train", total=1000)
        for seconds in [80.0] + [0.5] * 300:  # one step while everything is compiled, then two a second
            clock[0] += seconds
            task.advance()
        line = task.line(clock[0])
    assert line == "train: 301/1000, 2.0/s, 5:50 left"
