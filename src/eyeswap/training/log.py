"""The training log: one JSON line per step in ``train.jsonl``, and optionally external trackers.

Each line is appended in one write when its step ends. When a run resumes, the lines of steps that will be repeated are
removed first.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from eyeswap.errors import EnvironmentProblem
from eyeswap.files import write_text

PROJECT = "eyeswap"


class Tracker(Protocol):
    """An experiment tracker that receives the training log besides ``train.jsonl``."""

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
        if writes:
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = path.open("a", encoding="utf-8")

    def add(self, row: Mapping[str, float]) -> None:
        """Append the numbers of one step, including ``step`` itself."""
        self.losses.append(row["loss"])
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        values = {key: value for key, value in row.items() if key != "step"}
        for tracker in self._trackers:
            tracker.log(values, int(row["step"]))

    def close(self) -> None:
        """Close the file and the trackers."""
        if self._file:
            self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def open_trackers(names: Sequence[str], run_dir: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """Open trackers by name.

    Args:
        names: any of ``tensorboard``, ``trackio``, ``wandb``.
        run_dir: folder of the run, which provides its name and holds TensorBoard's files.
        config: configuration of the run.

    Raises:
        EnvironmentProblem: if one is not installed.
    """
    return [_open(name, run_dir, config) for name in names]


def import_tracker(name: str) -> Any:
    """Import the module of a tracker.

    Raises:
        EnvironmentProblem: if it is not installed.
    """
    try:
        return importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError:
        raise EnvironmentProblem(f"track: {name} is not installed; pip install {name}, or remove it") from None


def _open(name: str, run_dir: Path, config: Mapping[str, Any]) -> Tracker:
    title = "/".join(run_dir.parts[-3:])
    service = import_tracker(name)
    if name == "tensorboard":
        return _TensorBoard(service.SummaryWriter(str(run_dir / "tensorboard")))
    service.init(project=PROJECT, name=title, config=dict(config), resume="allow")
    return _Service(service)


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"train/{key}", value, step)

    def finish(self) -> None:
        self._writer.close()


class _Service:
    """Weights & Biases or trackio, which have the same interface."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._service.log({f"train/{key}": value for key, value in values.items()}, step=step)

    def finish(self) -> None:
        self._service.finish()


def _rows(path: Path) -> list[dict[str, float]]:
    """Return the complete lines of an earlier log; a line cut off by a power failure is dropped."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line]
