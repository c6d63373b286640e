"""Progress of long work: bars with rate and remaining time on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from eyeswap.console import progress_console

Item = TypeVar("Item")

RECORD = "\x1e"  # begins each JSON text of a sequence (RFC 7464)
SECONDS_BETWEEN_LINES = 15.0
SECONDS_OF_RATE = 60.0  # the rate is that of the last minute: work often starts slowly, and then time left is wrong
_LOGGER = logging.getLogger("eyeswap")
_LOGGER.addHandler(logging.NullHandler())  # without any, Python prints warnings itself


class Task:
    """A task with a known number of steps; call `advance` until it is complete."""

    def __init__(self, description: str, total: int, board: Progress, done: int = 0) -> None:
        self.description = description
        self.total = total
        self.done = self._before = done
        self._board = board
        self._started = self._last_line = time.monotonic()
        self._recent = collections.deque([(self._started, done)])  # times and counts of the last minute
        _LOGGER.debug("%s: %d of %d", description, done, total)
        self._bar = board.bars.add_task(description, total=total, completed=done, note="") if board.bars else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Record ``count`` further steps as done; ``note`` (a loss, for example) is shown beside the bar."""
        self.done += count
        if self.done >= self.total > self.done - count:
            _LOGGER.info("%s", self.line(time.monotonic(), note))
        if self._board.bars and self._bar is not None:
            self._board.bars.update(self._bar, advance=count, note=note)
            return
        now = time.monotonic()
        self._note(now)
        if self.done >= self.total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._board.console.print(self.line(now, note), soft_wrap=True, highlight=False, markup=False)

    def line(self, now: float, note: str = "") -> str:
        """Return the state as text: description, count, rate (of the last minute until it is done), time left, note."""
        since, before = self._recent[0] if self.done < self.total else (self._started, self._before)
        rate = (self.done - before) / max(now - since, 1e-9)
        parts = [f"{self.description}: {self.done}/{self.total}", _rate(rate)]
        if self.done < self.total:
            parts.append(f"{clock((self.total - self.done) / rate)} left" if rate else "time left unknown")
        else:
            parts.append(f"took {clock(now - self._started)}")
        return ", ".join([*parts, note] if note else parts)

    def _note(self, now: float) -> None:
        """Remember when how much was done, once a second, as far back as the rate looks."""
        if now - self._recent[-1][0] >= 1:
            self._recent.append((now, self.done))
        while len(self._recent) > 2 and now - self._recent[1][0] >= SECONDS_OF_RATE:
            self._recent.popleft()


class Progress:
    """A board of tasks; open it with `progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: RichProgress | _SentBars | None = None
        if _is_sent:
            self.bars = _SentBars()
        elif console.is_terminal:
            self.bars = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                speed_estimate_period=SECONDS_OF_RATE,
            )

    def say(self, message: str) -> None:
        """Print a message above the bars, and log it."""
        _LOGGER.warning("%s", message)
        self.console.print(message, highlight=False)

    def task(self, description: str, total: int, done: int = 0) -> Task:
        """Add a task of ``total`` steps, of which ``done`` were done earlier and do not count towards the rate."""
        return Task(description, total, self, done)

    def track(self, items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
        """Yield every item, and record it as done when the next one is requested."""
        task = self.task(description, total)
        for item in items:
            yield item
            task.advance()


@contextlib.contextmanager
def progress(console: Console | None = None) -> Iterator[Progress]:
    """Open a board of tasks on ``console``: live bars on a terminal, plain lines in a file or pipe.

    Example:
        >>> with progress() as board:
        ...     for batch in board.track(range(3), "train vit", total=3):
        ...         pass
    """
    board = Progress(console or progress_console(stderr=True))
    with board.bars or contextlib.nullcontext():
        yield board


_is_sent = False


def send_progress() -> None:
    """From now on write this process's tasks to standard output as a JSON text sequence, for a process that shows them.

    Each text has the number of a ``task``, its ``description``, ``total``, the steps ``done``, and a ``note``.
    """
    global _is_sent
    _is_sent = True


class _SentBars(contextlib.AbstractContextManager["_SentBars"]):
    """Stands in for the bars of a terminal; every task is sent when it begins and then a few times a second at most."""

    SECONDS_BETWEEN = 0.25

    def __init__(self) -> None:
        self._tasks: list[dict[str, Any]] = []
        self._sent: list[float] = []

    def __exit__(self, *_: object) -> None:
        return

    def add_task(self, description: str, total: int, completed: int, note: str) -> TaskID:
        number = len(self._tasks)
        self._tasks.append(
            {"task": number, "description": description, "total": total, "done": completed, "note": note}
        )
        self._sent.append(0.0)
        self._send(number)
        return TaskID(number)

    def update(self, number: TaskID, advance: int, note: str) -> None:
        task = self._tasks[number]
        task.update(done=task["done"] + advance, note=note)
        if task["done"] >= task["total"] or time.monotonic() - self._sent[number] >= self.SECONDS_BETWEEN:
            self._send(number)

    def _send(self, number: int) -> None:
        self._sent[number] = time.monotonic()
        sys.stdout.write(f"{RECORD}{json.dumps(self._tasks[number])}\n")
        sys.stdout.flush()


class _RateColumn(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        """Show the steps per second."""
        return Text(_rate(task.finished_speed or task.speed or 0.0), style="progress.data.speed")


def _rate(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s each"


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours if it is that long.

    Example:
        >>> clock(3725)
        '1:02:05'
    """
    minutes, full_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{full_seconds:02d}" if hours else f"{minutes}:{full_seconds:02d}"
