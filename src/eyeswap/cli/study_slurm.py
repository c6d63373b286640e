"""`eyeswap study run FILE --launcher slurm`: submit what is not done, and say where to look."""

from __future__ import annotations

from pathlib import Path

import typer

from eyeswap.study.plan import plan_runs, refuse_changed
from eyeswap.study.slurm import SlurmOptions, logs, submit
from eyeswap.study.spec import Study


def submit_study(study: Study, file: Path, runs_dir: Path, options: SlurmOptions) -> None:
    """Submit jobs for the runs of a study that are not done; print their ids, their logs and how to watch them.

    Raises:
        SpecError: if a run folder holds a run of another version of the study.
        EnvironmentProblem: if submitit or Slurm is not here.
    """
    planned = plan_runs(study, runs_dir)
    refuse_changed(planned, file)
    num_left = sum(run.state() != "done" for run in planned)
    if not num_left:
        typer.echo(f"all {len(planned)} runs of {study.name} are done; nothing submitted")
        return
    jobs = submit(file, runs_dir, num_left, options)
    noun = "job" if len(jobs) == 1 else "jobs"
    typer.echo(f"{num_left} of {len(planned)} runs to do, shared by {len(jobs)} {noun}: {', '.join(jobs)}")
    typer.echo(f"logs    {logs(file, runs_dir)}")
    typer.echo(f"watch   eyeswap study status {file} --runs {runs_dir} --watch")
    typer.echo(f"cancel  scancel {' '.join(dict.fromkeys(job.partition('_')[0] for job in jobs))}")
    typer.echo(f"report  eyeswap report {runs_dir / study.name}")
