"""A run loaded from its folder; each file is read once, when it is first needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eyeswap.errors import DataError
from eyeswap.files import read_json_lines
from eyeswap.results.scores import Predictions, Scores, read_run_predictions, read_scores, summarize
from eyeswap.runs.environment import Environment
from eyeswap.runs.folder import RunFolder, StudyFolder, find_runs
from eyeswap.runs.record import AskedBenchmark, EvaluationRecord, RunRecord, StudyRecord, benchmark_name, read_index
from eyeswap.runs.recorded import read_record


class Run:
    """One arm with one seed, or an evaluation of it, read lazily from its folder.

    Every property raises a `DataError` that names file and field if the file it reads is missing or damaged.

    Args:
        folder: the run's folder.
        benchmarks: short names of the benchmarks that count, in order: those of the current study. Others that the run
            was asked stay in its folder and are ignored here. None counts all.

    Attributes:
        folder: the run's folder.
        files: the paths of its files.
    """

    def __init__(self, folder: Path, benchmarks: Sequence[str] | None = None) -> None:
        self.folder, self.files = folder, RunFolder(folder)
        self._benchmarks = None if benchmarks is None else tuple(benchmarks)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def name(self) -> str:
        """The run's name, ``arm/seed-n``."""
        return self.record.name

    @property
    def arm(self) -> str:
        """The name of the run's arm."""
        return self.record.arm

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.record.seed

    @cached_property
    def record(self) -> RunRecord:
        """The run's configuration and inputs."""
        return read_record(self.files.record, RunRecord)

    @cached_property
    def environment(self) -> Environment:
        """The software and hardware of its training."""
        return read_record(self.files.environment, Environment)

    @cached_property
    def asked(self) -> dict[str, AskedBenchmark]:
        """The benchmarks that the run was asked, by name; empty before its evaluation has started."""
        index = read_index(self.files.benchmarks) if self.files.benchmarks.is_file() else {}
        if self._benchmarks is None:
            return index
        return {name: index[name] for name in self._benchmarks if name in index}

    @property
    def benchmarks(self) -> list[str] | None:
        """The benchmarks that count, according to the run's record; None if the record does not list any."""
        recorded = self.record.benchmarks
        if recorded is None or self._benchmarks is None:
            return None if recorded is None else list(recorded)
        return [name for name in recorded if benchmark_name(name) in self._benchmarks]

    @cached_property
    def predictions(self) -> list[Predictions]:
        """The run's predictions, one item per benchmark."""
        return read_run_predictions(self.folder, self.asked)

    @cached_property
    def stored_scores(self) -> Scores:
        """The scores as stored, of all benchmarks that the run was ever asked."""
        return read_scores(self.files.scores)

    @cached_property
    def scores(self) -> Scores:
        """The scores of the benchmarks that count, with averages over these."""
        stored = self.stored_scores
        if not set(self.asked) <= set(stored.benchmarks):
            raise DataError(f"{self.files.scores}: lacks benchmarks of {self.files.benchmarks}; evaluate the run again")
        if len(self.asked) < len(stored.benchmarks):
            return summarize(self.predictions)
        return replace(stored, benchmarks={name: stored.benchmarks[name] for name in self.asked})

    @cached_property
    def training_rows(self) -> list[dict[str, Any]]:
        """The rows of the training log; empty without one."""
        return read_json_lines(self.files.training_log) if self.files.training_log.is_file() else []

    @cached_property
    def evaluations(self) -> list[Run]:
        """The finished separate evaluations of the run's model."""
        return [Run(folder.path) for folder in self.files.evaluation_folders() if folder.is_scored]

    @cached_property
    def evaluation(self) -> EvaluationRecord | None:
        """How a separate evaluation was made; None for a run."""
        path = self.files.evaluation
        return read_record(path, EvaluationRecord) if path.is_file() else None


def load_runs(paths: Iterable[Path]) -> list[Run]:
    """Return the runs at ``paths``, without reading them yet; a folder stands for all runs below it.

    Raises:
        DataError: if a path contains no run, or a ``study.json`` cannot be read.
    """
    benchmarks: dict[StudyFolder, tuple[str, ...] | None] = {}
    runs = []
    for path in find_runs(paths):
        folder = RunFolder(path)
        if folder.is_of_a_study and folder.study not in benchmarks:
            is_study = folder.study.study.is_file()
            benchmarks[folder.study] = (
                read_record(folder.study.study, StudyRecord).benchmark_names if is_study else None
            )
        runs.append(Run(path, benchmarks[folder.study] if folder.is_of_a_study else None))
    return runs


def named(runs: Iterable[Run]) -> dict[str, Run]:
    """Return runs by name: ``arm/seed-n``, or the folder where that name is taken."""
    by_name: dict[str, Run] = {}
    for run in runs:
        by_name[str(run.folder) if run.name in by_name else run.name] = run
    return by_name
