"""Workers that share a study: each takes a run that no other worker holds, until all are done.

A worker is one process, or the processes of one torchrun. Workers coordinate only through the claims in the run folders
(`eyeswap.study.claim`), so they may be started at any time, on any machine that shares the folder. If one dies, its run
is resumed from its last checkpoint by whichever worker claims it next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.text import Text

from eyeswap.errors import EyeswapError, RunError
from eyeswap.planning.plan import PlannedRun
from eyeswap.processes import Ranks
from eyeswap.runs.folder import RunFolder
from eyeswap.study.claim import Claim, claim, held, holder_of, utc_now

POLL_S = 2.0  # how often to check on runs that other workers hold
_WAIT, _STOP = -1, -2


def work_through(
    planned: Sequence[PlannedRun], execute: Callable[[PlannedRun], None], console: Console, ranks: Ranks
) -> None:
    """Execute every run that no other worker holds, and return when all runs are done.

    A run that fails does not stop the others.

    Args:
        planned: the runs, in the order of execution.
        execute: completes one run.
        console: where progress is printed.
        ranks: this process among those that make up the worker.

    Raises:
        RunError: at the end, if runs failed; the message names them.
    """
    began = utc_now()
    failed: dict[int, str] = {}
    printed: set[str] = set()
    while True:
        choice, own_claim = _choose(planned, failed, began) if ranks.is_first else (0, None)
        choice = int(ranks.sum(float(choice) if ranks.is_first else 0.0)[0])  # broadcasts the first process's choice
        if choice == _STOP:
            break
        if choice == _WAIT:
            _print_holders(planned, failed, printed, console)
            time.sleep(POLL_S)
            continue
        run = planned[choice]
        num_left = sum(other.state() != "done" for other in planned)
        console.print(f"{run.arm}, seed {run.seed} ({num_left} of {len(planned)} runs left)", highlight=False)
        try:
            with nullcontext() if own_claim is None else held(own_claim):  # only the first process holds the claim
                execute(run)
        except EyeswapError as error:
            if ranks.size > 1:
                raise  # the processes of a group must fail together
            failed[choice] = str(error)
            console.print(Text.assemble(("failed:", "red"), f" {error}"), soft_wrap=True)
    if failed:
        names = ", ".join(RunFolder(planned[index].folder).name for index in failed)
        raise RunError(f"{len(failed)} of {len(planned)} runs failed: {names}; first: {next(iter(failed.values()))}")


def _choose(planned: Sequence[PlannedRun], failed: dict[int, str], began: str) -> tuple[int, Claim | None]:
    """Return the index of a run and a claim on it, or ``_WAIT`` or ``_STOP`` if none is available now or ever."""
    is_any_left = False
    for index, run in enumerate(planned):
        if index in failed or run.state() == "done":
            continue
        last = holder_of(run.folder)
        if last is not None and last.end == "failed" and last.ended >= began:
            failed[index] = last.message  # it has just failed in another worker
            continue
        is_any_left = True
        own_claim = claim(run.folder)
        if own_claim is not None:
            if run.state() != "done":
                return index, own_claim
            own_claim.release("done")  # finished between the check and the claim
    return (_WAIT if is_any_left else _STOP), None


def _print_holders(planned: Sequence[PlannedRun], failed: dict[int, str], printed: set[str], console: Console) -> None:
    """Print which workers hold the remaining runs, each line once."""
    for index, run in enumerate(planned):
        holder = None if index in failed or run.state() == "done" else holder_of(run.folder)
        if holder is None:
            continue
        line = f"{run.arm}, seed {run.seed}: held by {holder.worker} since {holder.since[:19]} UTC; waiting"
        if line not in printed:
            printed.add(line)
            console.print(line, highlight=False)


@contextmanager
def alone_in(folder: Path, console: Console) -> Iterator[None]:
    """Wait until no other worker holds a folder, and hold it for the duration of the block."""
    is_printed = False
    while (own_claim := claim(folder)) is None:
        if not is_printed:
            holder = holder_of(folder)
            console.print(f"{folder}: waiting for {holder.worker if holder else 'another worker'}", highlight=False)
            is_printed = True
        time.sleep(POLL_S)
    with held(own_claim):
        yield
