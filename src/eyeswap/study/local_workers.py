"""Several workers of a study on one machine, each a process with its share of the cores, behind one board of progress.

Small networks gain little from a second thread: two processes of one thread finish two runs sooner than one process of
two threads finishes them one after the other, and one reads and draws images while the other computes. A worker is
``eyeswap study work``; it sends what it does as JSON text sequences (RFC 7464) on its standard output, where every
other line is a message. It ends with a checkpoint when its standard input closes, and so does not outlive this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from rich.console import Console

from eyeswap.errors import RunError, SpecError
from eyeswap.planning.plan import PlannedRun
from eyeswap.processes import best_device, usable_cpus
from eyeswap.progress import RECORD, Progress, Task, progress
from eyeswap.shipped import SHIPPED_LLM

_MOST = 8  # a worker of a miniature study takes up to 2 GB


def default_workers(unfinished: Sequence[PlannedRun]) -> int:
    """Return how many workers this machine should have for these runs.

    One for each core where all runs train a shipped LLM on the CPU; otherwise one. Also one where the environment has
    already decided: under torchrun, and where ``OMP_NUM_THREADS`` is set.
    """
    is_small = all(run.recipe.llm == SHIPPED_LLM for run in unfinished)
    if not is_small or "RANK" in os.environ or "OMP_NUM_THREADS" in os.environ or best_device().type != "cpu":
        return 1
    return max(1, min(len(unfinished), usable_cpus(), _MOST))


def work_together(arguments: Sequence[str], count: int, console: Console) -> None:
    """Let several workers do the runs of a study, and return when all have ended.

    Args:
        arguments: those of ``eyeswap study work``.
        count: number of workers.
        console: where their progress is shown.

    Raises:
        RunError, SpecError: if all workers failed, with the first one's error. The runs of a worker that is killed are
            done by the others.
    """
    threads = max(1, usable_cpus() // count)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "eyeswap.cli", "study", "work", *arguments]
    plural, each = "s"[: count > 1], f"{threads} thread{'s'[: threads > 1]}"
    console.print(f"{count} worker{plural} of {each} (--workers)", highlight=False)
    with progress(console) as board, _ended_with_this([]) as workers:
        shown = _Shown(board)
        for _ in range(count):
            workers.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    text=True,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which ends them
                )
            )
        readers = [threading.Thread(target=shown.read, args=(worker.stdout,), daemon=True) for worker in workers]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        codes = [worker.wait() for worker in workers]
    if all(codes):
        kind = SpecError if codes[0] == SpecError.exit_code else RunError
        raise kind(shown.errors[0] if shown.errors else f"all workers ended, the first with code {codes[0]}")
    for error in dict.fromkeys(shown.errors):
        console.print(f"a worker ended, and the others did its runs: {error}", highlight=False)


@contextmanager
def _ended_with_this(workers: list[subprocess.Popen[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """End all workers when the block is left, and wait for their checkpoints."""
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in workers:
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()


class _Shown:
    """What workers send, on one board."""

    def __init__(self, board: Progress) -> None:
        self.errors: list[str] = []
        self._board, self._said, self._lock = board, set[str](), threading.Lock()

    def read(self, stream: IO[str]) -> None:
        """Show everything that one worker sends."""
        tasks: dict[int, Task] = {}
        for line in stream:
            with self._lock:
                if line.startswith(RECORD):
                    self._advance(tasks, **json.loads(line[len(RECORD) :]))
                elif line.startswith("error: "):
                    self.errors.append(line.removeprefix("error: ").rstrip("\n"))
                elif line.strip() and line not in self._said:  # what several workers say is shown once
                    self._said.add(line)
                    self._board.console.print(line.rstrip("\n"), highlight=False, markup=False, soft_wrap=True)

    def _advance(self, tasks: dict[int, Task], task: int, description: str, total: int, done: int, note: str) -> None:
        if task not in tasks:
            tasks[task] = self._board.task(description, total, done)
        if done > tasks[task].done:
            tasks[task].advance(done - tasks[task].done, note)


def end_with_standard_input() -> None:
    """Send this process SIGTERM as soon as its standard input is closed, as its parent does by ending."""

    def watch() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock this thread would hold when the interpreter ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with standard input").start()
