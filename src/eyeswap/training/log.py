"""The training log: one JSON line per step in ``train.jsonl``, and optionally external trackers.

Each line is appended in one write when its step ends. When a run resumes, the lines of steps that will be repeated are
removed first.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from eyeswap.errors import EnvironmentProblem
from eyeswap.files import digest, write_text

PROJECT = "eyeswap"


class Tracker(Protocol):
    """An experiment tracker that receives the training log besides ``train.jsonl``."""

    def resume(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take the rows of the steps before an interruption, in case some of them never arrived."""
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of one step."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


class TrainLog:
    """The log of one run.

    Attributes:
        losses: losses of all steps so far.
        elapsed_s: training time when the log was opened, seconds.

    Args:
        path: ``train.jsonl``.
        first_step: the step at which training resumes; later rows are from the lost part of an interrupted run.
        trackers: further receivers of the log.
        writes: whether this process writes the file; others only keep the losses in memory.
    """

    def __init__(self, path: Path, first_step: int, trackers: Sequence[Tracker] = (), writes: bool = True) -> None:
        rows = [row for row in _rows(path) if row["step"] < first_step]
        self.losses = [row["loss"] for row in rows]
        self.elapsed_s = rows[-1]["elapsed_s"] if rows else 0.0
        self._trackers, self._file = trackers, None
        for tracker in trackers:
            tracker.resume(rows)
        if writes:
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = path.open("a", encoding="utf-8")

    def add(self, row: Mapping[str, float]) -> None:
        """Append the numbers of one step, including ``step`` itself."""
        self.losses.append(row["loss"])
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        for tracker in self._trackers:
            tracker.log(_numbers(row), int(row["step"]))

    def close(self) -> None:
        """Close the file and the trackers."""
        if self._file:
            self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def open_trackers(names: Sequence[str], run_dir: Path, config: Mapping[str, Any], first_step: int = 0) -> list[Tracker]:
    """Open trackers by name; an interrupted run goes on in the tracked run that it has.

    Args:
        names: any of ``tensorboard``, ``trackio``, ``wandb``.
        run_dir: folder of the run, which provides its name and holds TensorBoard's files.
        config: configuration of the run.
        first_step: the step to resume from.

    Raises:
        EnvironmentProblem: if one is not installed.
    """
    return [_open(name, run_dir, config, first_step) for name in names]


def import_tracker(name: str) -> Any:
    """Import the module of a tracker.

    Raises:
        EnvironmentProblem: if it is not installed.
    """
    try:
        return importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError:
        raise EnvironmentProblem(
            f"track: {name} is not installed; pip install {name} (or 'eyeswap[track]'), or remove it"
        ) from None


def _open(name: str, run_dir: Path, config: Mapping[str, Any], first_step: int) -> Tracker:
    title = "/".join(run_dir.parts[-3:])
    service = import_tracker(name)
    if name == "tensorboard":
        return _TensorBoard(service.SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step))
    if name == "trackio":
        return _Trackio(service, title, config)
    # Steps that wandb has already are left out by it; they would be the same numbers again.
    service.init(
        project=PROJECT, name=title, id=digest(str(run_dir.resolve()))[:16], config=dict(config), resume="allow"
    )
    return _Service(service)


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def resume(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Nothing: events are on disk, and those of later steps are purged when the writer opens."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"train/{key}", value, step)

    def finish(self) -> None:
        self._writer.close()


class _Service:
    """Weights & Biases or trackio, which have the same interface."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def resume(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Nothing: the service has what it was sent."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._service.log({f"train/{key}": value for key, value in values.items()}, step=step)

    def finish(self) -> None:
        self._service.finish()


class _Trackio(_Service):
    """trackio sends now and then, so a killed run lacks its last steps: its tracked run is written anew on resuming."""

    def __init__(self, service: Any, title: str, config: Mapping[str, Any]) -> None:
        super().__init__(service)
        with contextlib.suppress(ValueError):  # there is no such project yet
            for run in service.Api().runs(PROJECT):
                if run.name == title:
                    run.delete()
        service.init(project=PROJECT, name=title, config=dict(config), resume="never")

    def resume(self, rows: Sequence[Mapping[str, float]]) -> None:
        for row in rows:
            self.log(_numbers(row), int(row["step"]))


def _numbers(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step"}


def _rows(path: Path) -> list[dict[str, float]]:
    """Return the complete lines of an earlier log; a line cut off by a power failure is dropped."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line]
