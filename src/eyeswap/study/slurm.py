"""Workers of a study as Slurm jobs, submitted with submitit; each job claims runs until none is left."""

from __future__ import annotations

import importlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.console import open_console
from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.processes import Terminated, termination
from eyeswap.runs.folder import StudyFolder

_MOST_TIMEOUTS = 1000  # a long study may reach many time limits; it resumes from the last checkpoint each time
_LOOK_S = 3.0  # Slurm's scheduler looks at a new job within this time unless it is very busy
_NEVER = re.compile(  # reasons of squeue's manual page that no waiting removes
    r"Partition(Config|NodeLimit|TimeLimit)|BadConstraints|DependencyNeverSatisfied|Invalid(Account|QOS)|\w+PerJob(Limit)?"
)


@dataclass(frozen=True)
class SlurmOptions:
    """Slurm options of each job.

    Attributes:
        partition: partition to submit to; None: the cluster's default.
        hours: time limit per job; a job that reaches it is requeued and resumes.
        nodes: nodes per job.
        gpus: GPUs, and processes, per node; 0 for one process without a GPU.
        cpus: CPU cores per process.
        jobs: maximum number of jobs; there are never more than unfinished runs.
        others: further sbatch options by name.
    """

    partition: str | None = None
    hours: float = 24.0
    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    jobs: int = 8
    others: Mapping[str, str | bool] | None = None

    def __post_init__(self) -> None:
        for name in ("hours", "nodes", "cpus", "jobs"):
            if not getattr(self, name) > 0:
                raise SpecError(f"--slurm-{name} {getattr(self, name):g}: must be above 0")
        if self.gpus < 0:
            raise SpecError(f"--slurm-gpus {self.gpus}: must be 0 or more")

    def parameters(self) -> dict[str, Any]:
        """Return these options as parameters of submitit."""
        parameters: dict[str, Any] = {
            "timeout_min": max(1, round(60 * self.hours)),
            "nodes": self.nodes,
            "tasks_per_node": max(1, self.gpus),
            "cpus_per_task": self.cpus,
        }
        if self.gpus:
            parameters["gpus_per_node"] = self.gpus
        if self.partition is not None:
            parameters["slurm_partition"] = self.partition
        parameters["slurm_additional_parameters"] = {"requeue": True, **(self.others or {})}
        return parameters


def parse_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Parse options of the form ``key=value``, or ``key`` alone for a flag of sbatch, whose value is then True.

    Raises:
        SpecError: naming the first that does not have this form.
    """
    options: dict[str, str | bool] = {}
    for text in texts:
        key, sign, value = text.removeprefix("--").partition("=")
        if not key or (sign and not value):
            raise SpecError(
                f'--slurm-option "{text}": write KEY=VALUE for an sbatch option, such as account=vision, or its name '
                "alone for one without a value, such as exclusive"
            )
        options[key.replace("-", "_")] = value if sign else True
    return options


def submit(
    study_file: Path, runs_dir: Path, num_runs: int, options: SlurmOptions, changes: Sequence[str] = ()
) -> list[str]:
    """Submit the workers of a study, one per job.

    Args:
        study_file: the study file.
        runs_dir: folder of all studies' runs, on a disk that all jobs share.
        num_runs: number of unfinished runs.
        options: Slurm options.
        changes: changes of the study, as in `eyeswap.planning.spec.load_study`.

    Returns:
        The ids of the jobs.

    Raises:
        EnvironmentProblem: if submitit is not installed, Slurm is not available, or Slurm says that no node can ever
            run such a job; nothing stays in the queue then.
    """
    try:
        submitit: Any = importlib.import_module("submitit")
    except ImportError:
        raise EnvironmentProblem("--launcher slurm needs submitit: pip install 'eyeswap[slurm]'") from None
    if shutil.which("srun") is None:
        raise EnvironmentProblem(
            "--launcher slurm: srun is not on the PATH; submit on a machine with Slurm's commands, such as a login node"
        )
    folder, name = logs(study_file, runs_dir), f"eyeswap-{study_file.stem}"
    worker = Worker(study_file.absolute(), runs_dir.absolute(), changes)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=_MOST_TIMEOUTS)
        executor.update_parameters(name=name, **options.parameters())
        with executor.batch():
            jobs = [executor.submit(worker) for _ in range(min(num_runs, options.jobs))]
    except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
        raise EnvironmentProblem(f"slurm: {error}") from None
    ids = [str(job.job_id) for job in jobs]
    _refuse_hopeless(ids, options)
    return ids


def _refuse_hopeless(jobs: Sequence[str], options: SlurmOptions) -> None:
    """Cancel jobs that would pend without end, as Slurm accepts them unless EnforcePartLimits is set.

    Raises:
        EnvironmentProblem: with Slurm's reason and what was asked for.
    """
    arrays = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    query = ["squeue", "--noheader", "--states=PENDING", "--format=%r", f"--jobs={arrays}"]
    end = time.monotonic() + _LOOK_S
    while True:
        asked = subprocess.run(query, capture_output=True, text=True, check=False)
        reason = (asked.stdout.splitlines() or [""])[0].strip()
        if reason != "None" or time.monotonic() > end:
            break
        time.sleep(0.2)
    if _NEVER.fullmatch(reason):
        subprocess.run(["scancel", *arrays.split(",")], capture_output=True, check=False)
        raise EnvironmentProblem(
            f"slurm: no node can ever run such a job ({reason}), so it was cancelled: {options.nodes} x "
            f"{max(1, options.gpus) * options.cpus} CPUs and {options.gpus} GPUs for {options.hours:g} h in "
            f'{options.partition or "the default partition"}; `sinfo --format="%P %l %D %c %G"` shows what there is'
        )


def logs(study_file: Path, runs_dir: Path) -> Path:
    """Return the folder of the jobs' logs, ``<job>_<task>_log.out`` and ``.err``."""
    return StudyFolder(runs_dir.absolute() / study_file.stem).slurm


def _requeue_unless_cancelled(job: str) -> None:
    """Put this job, which was asked to end, back into the queue.

    Slurm does so by itself only with a job that it has to kill when its time of grace is over. A job that was
    cancelled, or has reached its time limit, is no longer RUNNING when the signal comes.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    state = subprocess.run(
        ["squeue", "--noheader", "--format=%T", f"--jobs={job}"], capture_output=True, text=True, check=False
    )
    if state.stdout.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", job], check=False)


class Worker:
    """The function that a job runs; when Slurm ends a job early, submitit requeues the same worker."""

    def __init__(self, study_file: Path, runs_dir: Path, changes: Sequence[str] = ()) -> None:
        self.study_file, self.runs_dir, self.changes = study_file, runs_dir, tuple(changes)

    def __call__(self) -> None:
        """Work through the study's runs."""
        from eyeswap.planning.spec import load_study
        from eyeswap.study.execute import run_study

        submitit: Any = importlib.import_module("submitit")
        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        termination.listen()  # Slurm sends SIGTERM when a job is cancelled or preempted, and kills it a little later
        try:
            run_study(load_study(self.study_file, self.changes), self.study_file, self.runs_dir, open_console())
        except Terminated:
            if job.global_rank == 0:
                _requeue_unless_cancelled(job.job_id)
            raise

    def checkpoint(self, *_: Any) -> Any:
        """Return the submission that resumes after a preemption or a time limit."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)
