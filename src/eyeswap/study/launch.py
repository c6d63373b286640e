"""Workers on one folder of runs: each takes a run that nobody holds, until all are done.

A worker is one process, or the processes that torchrun started together. Workers know of each other by the claims in
the run folders alone (`eyeswap.study.claim`), so they may be started at any time, on any machine that sees the folder,
and any of them may die: its run goes on, from its last checkpoint, with whoever claims it next.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from eyeswap.errors import EyeswapError, RunError
from eyeswap.planning.plan import PlannedRun
from eyeswap.processes import Ranks
from eyeswap.runs.folder import RunFolder
from eyeswap.study.claim import Claim, claim, held, holder_of, utc_now

POLL_S = 2.0  # seconds between looks at runs that others hold
_WAIT, _STOP = -1, -2


def work_through(
    planned: Sequence[PlannedRun], do: Callable[[PlannedRun], None], console: Console, ranks: Ranks
) -> None:
    """Do every run that nobody else does; return when all are done, by whomever.

    A run that fails does not stop the others.

    Args:
        planned: the runs, in the order in which they are wanted.
        do: takes one run to its end.
        console: where is told what goes on.
        ranks: this process among those that make up the worker.

    Raises:
        RunError: at the end, if runs failed; the message names them.
    """
    began = utc_now()
    failed: dict[int, str] = {}
    told: set[str] = set()
    while True:
        choice, mine = _choose(planned, failed, began) if ranks.is_first else (0, None)
        choice = int(ranks.sum(float(choice) if ranks.is_first else 0.0)[0])  # the others learn it here
        if choice == _STOP:
            break
        if choice == _WAIT:
            _tell_who_is_waited_for(planned, failed, told, console)
            time.sleep(POLL_S)
            continue
        run = planned[choice]
        left = sum(one.state() != "done" for one in planned)
        console.print(f"{run.arm}, seed {run.seed} ({left} of {len(planned)} runs left)", highlight=False)
        try:
            _do_held(run, mine, do)
        except EyeswapError as error:
            if ranks.size > 1:
                raise  # the processes of a group fail together
            failed[choice] = str(error)
            console.print(Text.assemble(("failed:", "red"), f" {error}"), soft_wrap=True)
    if failed:
        names = ", ".join(RunFolder(planned[index].folder).name for index in failed)
        raise RunError(f"{len(failed)} of {len(planned)} runs failed: {names}; first: {next(iter(failed.values()))}")


def _choose(planned: Sequence[PlannedRun], failed: dict[int, str], began: str) -> tuple[int, Claim | None]:
    """Return the index of a run and the claim on it, or that there is none to have now, or ever."""
    is_any_left = False
    for index, run in enumerate(planned):
        if index in failed or run.state() == "done":
            continue
        last = holder_of(run.folder)
        if last is not None and last.end == "failed" and last.ended >= began:
            failed[index] = last.message  # another worker has just seen it fail
            continue
        is_any_left = True
        mine = claim(run.folder)
        if mine is not None:
            if run.state() != "done":
                return index, mine
            mine.release("done")  # finished between the look and the claim
    return (_WAIT if is_any_left else _STOP), None


def _do_held(run: PlannedRun, mine: Claim | None, do: Callable[[PlannedRun], None]) -> None:
    if mine is None:  # the first process of the worker holds it
        do(run)
        return
    with held(mine):
        do(run)


def _tell_who_is_waited_for(
    planned: Sequence[PlannedRun], failed: dict[int, str], told: set[str], console: Console
) -> None:
    for index, run in enumerate(planned):
        last = None if index in failed or run.state() == "done" else holder_of(run.folder)
        text = (
            ""
            if last is None
            else f"{run.arm}, seed {run.seed}: held by {last.worker} since {last.since[:19]} UTC; waiting"
        )
        if text and text not in told:
            told.add(text)
            console.print(text, highlight=False)


@contextlib.contextmanager
def alone_in(folder: Path, console: Console) -> Iterator[None]:
    """Wait until nobody else holds a folder, and hold it as long as the block lasts."""
    is_told = False
    while (mine := claim(folder)) is None:
        if not is_told:
            last = holder_of(folder)
            console.print(f"{folder}: waiting for {last.worker if last else 'another worker'}", highlight=False)
            is_told = True
        time.sleep(POLL_S)
    with held(mine):
        yield
