"""Which runs a study consists of, and how far each is, read from the run folders alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from eyeswap.evaluation import get_benchmark
from eyeswap.files import digest, read_json, read_json_lines, sha256_of
from eyeswap.study.spec import Study

State = Literal["new", "unfinished", "done", "changed"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps taken so far.
        loss: training loss of the last step, if there was one.
        elapsed_s: training time so far, if training began.
        num_answered: benchmarks with stored predictions.
    """

    step: int
    loss: float | None
    elapsed_s: float | None
    num_answered: int


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, and the folder it lives in."""

    study: Study
    arm: str
    seed: int
    folder: Path

    @cached_property
    def digest(self) -> str:
        """The sha256 (hex) of everything in the study that decides this run's result."""
        backbone = self.study.arms[self.arm].backbone
        own_file = backbone.rpartition(":")[0] if ".py:" in backbone else None
        return digest(
            {
                "recipe": self.study.recipe.model_dump(mode="json"),
                "backbone": sha256_of(Path(own_file)) if own_file else backbone,
                "overrides": self.study.arms[self.arm].overrides,
                "seed": self.seed,
                "benchmarks": [get_benchmark(name).identity for name in self.study.benchmarks],
                "subset": self.study.subset,
            }
        )

    def state(self) -> State:
        """Return whether the run is new, unfinished, done, or made by another study text ("changed")."""
        if not (self.folder / "spec.json").is_file():
            return "new"
        if read_json(self.folder / "spec.json").get("run_digest") != self.digest:
            return "changed"
        return "done" if (self.folder / "scores.json").is_file() else "unfinished"

    def progress(self) -> Progress:
        """Return how far the run is."""
        log = self.folder / "train.jsonl"
        rows: list[dict[str, Any]] = read_json_lines(log) if log.is_file() else []
        last = rows[-1] if rows else {}
        names = [get_benchmark(name).name for name in self.study.benchmarks]
        answered = sum((self.folder / "predictions" / f"{name}.parquet").is_file() for name in names)
        return Progress(len(rows), last.get("loss"), last.get("elapsed_s"), answered)


def plan_runs(study: Study, runs_dir: Path) -> list[PlannedRun]:
    """Return every run of a study, seed by seed and within a seed arm by arm: early results compare arms."""
    return [
        PlannedRun(study, arm, seed, runs_dir / study.name / arm / f"seed-{seed}")
        for seed in study.seeds
        for arm in study.arms
    ]
