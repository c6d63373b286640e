"""The progress and worker of each run of a study, read from the run folders alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from eyeswap.errors import DataError
from eyeswap.evaluation.predictions import num_answered, read_predictions
from eyeswap.planning.plan import PlannedRun
from eyeswap.results.scores import read_scores
from eyeswap.runs.record import read_index
from eyeswap.runs.seal import changed_files, missing_files
from eyeswap.study.claim import Holder, holder_of

_RECENT_STEPS = 50  # the speed is measured over this many last steps


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run.

    Attributes:
        arm: its arm.
        seed: its seed.
        activity: ``new``, ``preparing`` (tokens), ``training``, ``answering`` or ``done``; if it has begun but no
            worker holds it ``failed``, ``interrupted`` or ``lost`` (its worker died); ``changed`` if the study has
            changed; ``damaged`` if its files cannot be read or differ from its seal (weights are not looked at).
        step: optimizer steps taken so far.
        num_steps: total number of steps; None before training begins.
        loss: training loss of the last step, if any.
        elapsed_s: training time so far, if training has begun.
        step_s: seconds per step over the last steps.
        left_s: remaining training time at that speed; None if unknown.
        answered: benchmark -> questions answered so far.
        asked: benchmark -> total number of questions, where it is known.
        worker: holder of the run, ``host:pid``; None if there is none.
        message: reason of the last failure or of the damage.
    """

    arm: str
    seed: int
    activity: str
    step: int = 0
    num_steps: int | None = None
    loss: float | None = None
    elapsed_s: float | None = None
    step_s: float | None = None
    left_s: float | None = None
    answered: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    worker: str | None = None
    message: str = ""

    @property
    def num_finished(self) -> int:
        """Number of benchmarks whose questions are all answered."""
        return sum(self.answered.get(name, 0) >= count for name, count in self.asked.items())

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def status_of(run: PlannedRun) -> RunStatus:
    """Return the progress of a run."""
    try:
        status = _status(run)
        problem = _damage(run) if status.activity == "done" else ""
    except DataError as error:
        return RunStatus(run.arm, run.seed, "damaged", message=str(error))
    return replace(status, activity="damaged", message=problem) if problem else status


def _status(run: PlannedRun) -> RunStatus:
    state, last, files = run.state(), holder_of(run.folder), run.files
    is_at_work = last is not None and last.is_at_work
    rows = _log_rows(files.training_log)
    newest = rows[-1] if rows else {}
    step = int(newest.get("step", -1)) + 1
    record = run.record
    num_steps = None if record is None else record.num_steps
    step_s = _step_s(rows)
    is_trained = files.is_trained
    if state in ("done", "changed"):
        activity: str = state
    elif is_at_work:
        activity = "answering" if is_trained else "training" if rows else "preparing"
    else:
        activity = _idle(last, has_begun=state != "new" or bool(rows))
    answered, asked = _answers(run)
    return RunStatus(
        arm=run.arm,
        seed=run.seed,
        activity=activity,
        step=step,
        num_steps=num_steps,
        loss=newest.get("loss"),
        elapsed_s=newest.get("elapsed_s"),
        step_s=step_s,
        left_s=None if num_steps is None or step_s is None else max(0, num_steps - step) * step_s,
        answered=answered,
        asked=asked,
        worker=last.worker if last is not None and is_at_work else None,
        message=last.message if last is not None and activity == "failed" else "",
    )


def count_activities(statuses: Sequence[RunStatus]) -> Counter[str]:
    """Return the number of runs in each activity."""
    return Counter(status.activity for status in statuses)


def _damage(run: PlannedRun) -> str:
    """Return why a finished run's results cannot be read; empty if they can."""
    try:
        read_scores(run.files.scores)
        for name, about in read_index(run.files.benchmarks).items():
            path = run.files.predictions_of(name)
            stat = path.stat()
            count = _num_readable(path, stat.st_mtime_ns, stat.st_size)
            if about.num_examples not in (None, count):
                return f"{path}: {count:,} answers to {about.num_examples:,} questions"
        if run.files.seal.is_file():
            kept = [path for path in run.files.sealed_files() if run.files.model not in path.parents]
            stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in [run.files.seal, *kept])
            return _unlike_seal(run.folder, stamps)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except DataError as error:
        return str(error)
    return ""


@lru_cache(maxsize=4096)
def _unlike_seal(run_dir: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Return which records and results differ from the seal; cached until one of the files of ``stamps`` changes."""
    names = {path.relative_to(run_dir).as_posix() for path, _, _ in stamps}
    changed = [*changed_files(run_dir, names), *missing_files(run_dir)]
    return f"{run_dir}: not as sealed: {', '.join(changed)}; see `eyeswap audit`" if changed else ""


@lru_cache(maxsize=4096)
def _num_readable(path: Path, mtime_ns: int, size: int) -> int:
    """Return the number of rows of a complete, readable predictions file; cached until the file changes."""
    table = read_predictions(path.parents[1], path.stem)
    return int(table.num_rows)


def _idle(last: Holder | None, *, has_begun: bool) -> str:
    """Return the activity of a run that no worker holds."""
    if last is None:
        return "interrupted" if has_begun else "new"
    return {"failed": "failed", None: "lost"}.get(last.end, "interrupted")


def _log_rows(path: Path) -> list[dict[str, Any]]:
    """Read the last rows of a log that may be growing, without a line that is still being written."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 512 * _RECENT_STEPS))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "elapsed_s": float(row["elapsed_s"])})
        except (ValueError, KeyError, TypeError):  # the first line may be incomplete, and others may be damaged
            continue
    return rows[-_RECENT_STEPS:]


def _step_s(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean seconds per step over the rows."""
    if len(rows) < 2:
        return None
    steps = rows[-1]["step"] - rows[0]["step"]
    return float((rows[-1]["elapsed_s"] - rows[0]["elapsed_s"]) / steps) if steps > 0 else None


def _answers(run: PlannedRun) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of questions answered so far, and the total, of each benchmark."""
    index = read_index(run.files.benchmarks) if run.files.benchmarks.is_file() else {}
    names = [benchmark.name for benchmark in run.benchmarks]
    counts = num_answered(run.folder, names)
    asked = {name: index[name].num_examples for name in names if name in index}
    return counts, {name: count for name, count in asked.items() if count is not None}
