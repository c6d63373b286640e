"""Which runs a study consists of, and how far each is, read from the run folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from eyeswap.backbones.name import BackboneName
from eyeswap.errors import SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.files import digest, read_json
from eyeswap.planning.spec import Study
from eyeswap.runs.folder import RunFolder, StudyFolder

State = Literal["new", "unfinished", "done", "changed"]


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
        return digest(
            {
                "recipe": self.study.recipe.model_dump(mode="json"),
                "backbone": BackboneName.parse(backbone).file_sha256 or backbone,
                "overrides": self.study.arms[self.arm].overrides,
                "seed": self.seed,
                "benchmarks": [get_benchmark(name).identity for name in self.study.benchmarks],
                "subset": self.study.subset,
            }
        )

    def state(self) -> State:
        """Return whether the run is new, unfinished, done, or made by another study text ("changed")."""
        files = RunFolder(self.folder)
        if not files.is_begun:
            return "new"
        if read_json(files.record).get("run_digest") != self.digest:
            return "changed"
        return "done" if files.is_scored else "unfinished"


def plan_runs(study: Study, runs_dir: Path) -> list[PlannedRun]:
    """Return every run of a study, seed by seed and within a seed arm by arm: early results compare arms."""
    return [
        PlannedRun(study, arm, seed, StudyFolder(runs_dir / study.name).run(arm, seed).path)
        for seed in study.seeds
        for arm in study.arms
    ]


def refuse_changed(planned: Sequence[PlannedRun], study_file: Path) -> None:
    """Check that no run folder holds a run of another version of the study.

    Raises:
        SpecError: naming the first that does.
    """
    for run in planned:
        if run.state() == "changed":
            raise SpecError(
                f"{run.folder}: holds a run of another version of {study_file}; delete it, or choose another --runs"
            )
