"""What `eyeswap study status` shows: a table, live with ``--watch``, or plain lines where there is no terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from eyeswap.cli.console import fitted_table, open_console
from eyeswap.study.plan import PlannedRun
from eyeswap.study.status import RunStatus, count_activities, status_of

if TYPE_CHECKING:
    from rich.console import Group

LOOK_S = 2.0  # seconds between looks
_STYLES = {
    "done": "green",
    "training": "cyan",
    "answering": "cyan",
    "preparing": "cyan",
    "failed": "red",
    "lost": "red",
}


def print_status(planned: Sequence[PlannedRun], as_json: bool) -> None:
    """Print how far the runs of a study are, once."""
    statuses = [status_of(run) for run in planned]
    if as_json:
        found = {"study": planned[0].study.name, "runs": [status.as_dict() for status in statuses]}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console = open_console()
    console.print(_board(planned, statuses, console.width))


def watch_status(planned: Sequence[PlannedRun]) -> None:
    """Show how far the runs are until all are done or the user has seen enough.

    Where there is no terminal, a line is printed whenever a run does something else, and every minute.
    """
    from rich.live import Live

    console = open_console()
    try:
        if not console.is_terminal:
            _print_changes(planned)
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                statuses = [status_of(run) for run in planned]
                live.update(_board(planned, statuses, console.width), refresh=True)
                if all(status.activity == "done" for status in statuses):
                    return
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return


def _print_changes(planned: Sequence[PlannedRun]) -> None:
    told: dict[str, tuple[str, float]] = {}
    while True:
        statuses = [status_of(run) for run in planned]
        for status in statuses:
            name, now = f"{status.arm}, seed {status.seed}", time.monotonic()
            before, when = told.get(name, ("", 0.0))
            if status.activity != before or (status.worker and now - when >= 60):
                told[name] = (status.activity, now)
                typer.echo(f"{name}: {_line(status)}")
        if all(status.activity == "done" for status in statuses):
            return
        time.sleep(LOOK_S)


def _line(status: RunStatus) -> str:
    """Return a status in words."""
    parts = [status.activity]
    if status.step:
        parts.append(f"{_steps(status)} steps")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    if status.activity == "training" and status.left_s is not None:
        parts.append(f"{_clock(status.left_s)} left")
    if sum(status.answered.values()):
        parts.append(f"{_answers(status)} answers")
    parts += [text for text in (status.worker, status.message) if text]
    return ", ".join(parts)


def _board(planned: Sequence[PlannedRun], statuses: Sequence[RunStatus], width: int) -> Group:
    """Return the table and what is below it; columns without any content are left out."""
    from rich.console import Group
    from rich.text import Text

    study = planned[0].study
    heads = {"arm": 0, "seed": 0, "state": 0, "steps": 0, "loss": 3, "a step": 5, "left": 1, "answers": 1,
             "benchmarks": 4, "worker": 2}  # fmt: skip
    rows: list[list[str | Text]] = [
        [
            status.arm,
            str(status.seed) if len(study.seeds) > 1 else "",
            Text(status.activity, _STYLES.get(status.activity, "")),
            _steps(status) if status.step else "",
            "" if status.loss is None else f"{status.loss:.3f}",
            "" if status.step_s is None else _seconds(status.step_s),
            _clock(status.left_s) if status.activity == "training" and status.left_s is not None else "",
            _answers(status),
            f"{status.num_finished} of {len(study.benchmarks)}",
            status.worker or "",
        ]
        for status in statuses
    ]
    filled = [place for place in range(len(heads)) if any(len(row[place]) for row in rows)]
    table = fitted_table(
        {name: rank for place, (name, rank) in enumerate(heads.items()) if place in filled},
        [[row[place] for place in filled] for row in rows],
        width,
    )
    lines = [Text(", ".join(f"{count} {name}" for name, count in count_activities(statuses).items()))]
    lines += [
        Text.assemble((f"{status.arm}, seed {status.seed}: ", "red"), status.message)
        for status in statuses
        if status.message
    ]
    return Group(Text(study.name, "bold"), table, *lines)


def _steps(status: RunStatus) -> str:
    return f"{status.step:,}" if status.num_steps is None else f"{status.step:,}/{status.num_steps:,}"


def _answers(status: RunStatus) -> str:
    """Return the questions answered; of how many, once all benchmarks are known."""
    done, total = sum(status.answered.values()), sum(status.asked.values())
    if not done:
        return ""
    return f"{done:,}/{total:,}" if len(status.asked) == len(status.answered) else f"{done:,}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
