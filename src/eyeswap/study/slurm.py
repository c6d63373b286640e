"""Workers of a study as Slurm jobs, submitted by submitit: each claims runs until none is left."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.console import open_console
from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.runs.folder import StudyFolder

_MOST_TIMEOUTS = 1000  # a long study may run into many time limits; each goes on from the last checkpoint


@dataclass(frozen=True)
class SlurmOptions:
    """What is asked of Slurm for each job.

    Attributes:
        partition: where to submit; None leaves it to the cluster.
        hours: time limit of a job; a job that runs into it is put back into the queue and goes on.
        nodes: machines of a job.
        gpus: GPUs, and processes, of each machine; 0 for one process without a GPU.
        cpus: processor cores of each process.
        jobs: jobs submitted at most; there are never more than runs to do.
        others: further options of sbatch, by name.
    """

    partition: str | None = None
    hours: float = 24.0
    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    jobs: int = 8
    others: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("hours", "nodes", "cpus", "jobs"):
            if not getattr(self, name) > 0:
                raise SpecError(f"--slurm-{name} {getattr(self, name):g}: must be above 0")
        if self.gpus < 0:
            raise SpecError(f"--slurm-gpus {self.gpus}: must be 0 or more")

    def parameters(self) -> dict[str, Any]:
        """Return these options in submitit's words."""
        given: dict[str, Any] = {
            "timeout_min": max(1, round(60 * self.hours)),
            "nodes": self.nodes,
            "tasks_per_node": max(1, self.gpus),
            "cpus_per_task": self.cpus,
        }
        if self.gpus:
            given["gpus_per_node"] = self.gpus
        if self.partition is not None:
            given["slurm_partition"] = self.partition
        given["slurm_additional_parameters"] = {"requeue": True, **(self.others or {})}
        return given


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """Read options given as ``key=value``.

    Raises:
        SpecError: naming the one that is none.
    """
    options = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (sign and key and value):
            raise SpecError(f'--slurm-option "{text}": write KEY=VALUE as sbatch knows it, such as account=vision')
        options[key.removeprefix("--").replace("-", "_")] = value
    return options


def submit(
    study_file: Path, runs_dir: Path, num_runs: int, options: SlurmOptions, changes: Sequence[str] = ()
) -> list[str]:
    """Submit one worker a job.

    Args:
        study_file: the study.
        runs_dir: folder of all studies' runs, on a disk that all jobs see.
        num_runs: runs that are not done.
        options: what is asked of Slurm.
        changes: of the study, as `eyeswap.planning.spec.load_study` takes them.

    Returns:
        The ids of the jobs.

    Raises:
        EnvironmentProblem: if submitit or Slurm is not here.
    """
    try:
        submitit: Any = importlib.import_module("submitit")
    except ImportError:
        raise EnvironmentProblem("--launcher slurm needs submitit: pip install 'eyeswap[slurm]'") from None
    if shutil.which("srun") is None:
        raise EnvironmentProblem(
            "--launcher slurm: srun is not on the PATH; submit where Slurm's commands are, such as on a login node"
        )
    folder, name = logs(study_file, runs_dir), f"eyeswap-{study_file.stem}"
    worker = Worker(study_file.absolute(), runs_dir.absolute(), changes)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=_MOST_TIMEOUTS)
        executor.update_parameters(name=name, **options.parameters())
        with executor.batch():
            jobs = [executor.submit(worker) for _ in range(min(num_runs, options.jobs))]
    except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
        raise EnvironmentProblem(f"slurm: {' '.join(str(error).split())}") from None
    return [str(job.job_id) for job in jobs]


def logs(study_file: Path, runs_dir: Path) -> Path:
    """Return the folder with what the jobs say, ``<job>_<task>_log.out`` and ``.err``."""
    return StudyFolder(runs_dir.absolute() / study_file.stem).slurm


class Worker:
    """What a job runs; when Slurm ends a job early, submitit puts the same worker back into the queue."""

    def __init__(self, study_file: Path, runs_dir: Path, changes: Sequence[str] = ()) -> None:
        self.study_file, self.runs_dir, self.changes = study_file, runs_dir, tuple(changes)

    def __call__(self) -> None:
        """Work through the study's runs."""
        from eyeswap.planning.spec import load_study
        from eyeswap.study.execute import run_study

        submitit: Any = importlib.import_module("submitit")
        if submitit.JobEnvironment().num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        run_study(load_study(self.study_file, self.changes), self.study_file, self.runs_dir, open_console())

    def checkpoint(self, *_: Any) -> Any:
        """Return the submission that goes on after a preemption or a time limit."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)
