"""The training log: one JSON line a step in ``train.jsonl``, and wherever else the user wants to watch.

Lines are appended as steps end, each in one write. After an interruption the lines of steps that will be taken again
are removed first.
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
    """A place besides ``train.jsonl`` that shows the course of training."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the numbers of one step."""
        ...

    def finish(self) -> None:
        """Send what is left."""
        ...


class TrainLog:
    """The log of one run.

    Attributes:
        losses: of all steps so far.
        elapsed_s: training time when the log was opened, seconds.

    Args:
        path: ``train.jsonl``.
        first_step: the step to go on from; later rows belong to a lost part of an interrupted run.
        trackers: are told too.
        writes: whether this process writes the file; others only remember.
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
        """Append the numbers of one step; among them ``step``."""
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
        run_dir: folder of the run; gives it its name, and holds the files of TensorBoard.
        config: what the run was asked to do.

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
        raise EnvironmentProblem(f"track: {name} is not installed; pip install {name}, or leave it out") from None


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
    """Weights & Biases or trackio, which speak alike."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._service.log({f"train/{key}": value for key, value in values.items()}, step=step)

    def finish(self) -> None:
        self._service.finish()


def _rows(path: Path) -> list[dict[str, float]]:
    """Return the whole lines of an earlier log; a line cut off by a loss of power is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line]
