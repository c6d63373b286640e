"""`eyeswap study run|plan|status FILE`: do a study, show what it would do, show how far it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from eyeswap.cli.estimate import GpuOption, GpusOption, JsonOption, MfuOption, TextOption

app = typer.Typer(no_args_is_help=True, help="Run a study, or look at its plan and progress.")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study, a YAML file.")]
_SLURM: dict[str, Any] = {"rich_help_panel": "With --launcher slurm"}
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs of all studies.")]


@app.command(epilog="Example: eyeswap study run studies/quickstart.yaml")
def run(
    file: StudyFile,
    runs: Runs = Path("runs"),
    launcher: Annotated[
        str, typer.Option("--launcher", help="here: in this process, or those of torchrun; slurm: as jobs.")
    ] = "here",
    slurm_partition: Annotated[str | None, typer.Option(metavar="NAME", help="Where to submit.", **_SLURM)] = None,
    slurm_hours: Annotated[
        float, typer.Option(help="Time limit of a job, which then queues again and goes on.", **_SLURM)
    ] = 24.0,
    slurm_nodes: Annotated[int, typer.Option(help="Machines of a job.", **_SLURM)] = 1,
    slurm_gpus: Annotated[int, typer.Option(help="GPUs of a machine; 0 for none.", **_SLURM)] = 1,
    slurm_cpus: Annotated[int, typer.Option(help="Cores of a GPU's process.", **_SLURM)] = 8,
    slurm_jobs: Annotated[int, typer.Option(help="Most jobs; they share the runs.", **_SLURM)] = 8,
    slurm_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What else sbatch knows; repeat it.", **_SLURM)
    ] = None,
) -> None:
    """Train and evaluate every arm and seed, then write the report; finished parts are not done again.

    Start it several times, on any machines that see the same --runs folder: the processes share the runs.
    """
    from eyeswap.cli.console import open_console
    from eyeswap.errors import SpecError, nearest
    from eyeswap.study.spec import load_study

    study = load_study(file)
    if launcher not in ("here", "slurm"):
        raise SpecError(f"--launcher {launcher}: {nearest(launcher, ('here', 'slurm'))}")
    if launcher == "slurm":
        from eyeswap.cli.study_slurm import submit_study
        from eyeswap.study.slurm import SlurmOptions, parse_options

        others = parse_options(slurm_option or [])
        options = SlurmOptions(slurm_partition, slurm_hours, slurm_nodes, slurm_gpus, slurm_cpus, slurm_jobs, others)
        submit_study(study, file, runs, options)
        return
    from eyeswap.cli.report import write_and_show
    from eyeswap.study.execute import run_study

    console = open_console()
    folder = run_study(study, file, runs, console)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process is enough
        write_and_show(folder, console)


@app.command(epilog="Example: eyeswap study fields")
def fields() -> None:
    """Print every key that a study file may have, with default and meaning."""
    from eyeswap.study.reference import study_reference

    typer.echo(study_reference())


@app.command(epilog="Example: eyeswap study plan studies/paper/matched-in1k-224.yaml --gpu h100 --mfu 0.35")
def plan(
    file: StudyFile,
    runs: Runs = Path("runs"),
    gpu: GpuOption = "h200",
    gpus: GpusOption = 1,
    mfu: MfuOption = 0.4,
    text_tokens: TextOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a study: digests, tokens, parameters, FLOPs, memory, time, and what is already done.

    Starts nothing and loads no weights.
    """
    from eyeswap.cli.study_plan import show_plan
    from eyeswap.study.estimate import Assumptions
    from eyeswap.study.hardware import find_gpu
    from eyeswap.study.spec import load_study

    show_plan(load_study(file), runs, Assumptions(find_gpu(gpu), gpus, mfu, text_tokens), as_json)


@app.command(epilog="Example: eyeswap study status studies/quickstart.yaml --watch")
def status(
    file: StudyFile,
    runs: Runs = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 s, until all runs are done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far each run is and who works on it: steps, loss, time left, questions answered."""
    from eyeswap.cli.study_status import print_status, watch_status
    from eyeswap.study.plan import plan_runs
    from eyeswap.study.spec import load_study

    planned = plan_runs(load_study(file), runs)
    if watch and not as_json:
        watch_status(planned)
    else:
        print_status(planned, as_json)
