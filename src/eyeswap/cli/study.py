"""`eyeswap study run|plan|status FILE`: run a study, show its plan, show its progress."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eyeswap.cli.options import GpuOption, GpusOption, JsonOption, MfuOption, RunsOption, TextOption

if TYPE_CHECKING:
    from rich.console import Group

    from eyeswap.planning.plan import PlannedRun
    from eyeswap.planning.spec import Study
    from eyeswap.study.slurm import SlurmOptions
    from eyeswap.study.status import RunStatus

app = typer.Typer(no_args_is_help=True, help="Run a study, or show its plan or progress.")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A study file (YAML).")]
_SLURM: dict[str, Any] = {"rich_help_panel": "With --launcher slurm"}
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the study, such as 'seeds=[7]'; repeatable."),
]


@app.command(epilog="Example: eyeswap study run studies/quickstart.yaml")
def run(
    file: StudyFile,
    runs: RunsOption = Path("runs"),
    changes: Changes = None,
    launcher: Annotated[
        Literal["here", "slurm"],
        typer.Option("--launcher", help="here: in this process or those of torchrun; slurm: as Slurm jobs."),
    ] = "here",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Processes that share the runs and cores of this machine; by default one per core if all runs train "
            "digits-llm on the CPU, otherwise one.",
        ),
    ] = None,
    slurm_partition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Partition to submit to; the cluster's default.", **_SLURM)
    ] = None,
    slurm_hours: Annotated[
        float, typer.Option(metavar="H", help="Time limit per job; a job that reaches it requeues itself.", **_SLURM)
    ] = 24.0,
    slurm_nodes: Annotated[int, typer.Option(metavar="N", help="Nodes per job.", **_SLURM)] = 1,
    slurm_gpus: Annotated[int, typer.Option(metavar="N", help="GPUs per node; 0 for none.", **_SLURM)] = 1,
    slurm_cpus: Annotated[int, typer.Option(metavar="N", help="CPU cores per GPU.", **_SLURM)] = 8,
    slurm_jobs: Annotated[int, typer.Option(metavar="N", help="Maximum number of jobs.", **_SLURM)] = 8,
    slurm_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="Any other sbatch option; repeatable.", **_SLURM)
    ] = None,
) -> None:
    """Train and evaluate every arm with every seed, then write the report.

    An interrupted study resumes where it stopped, and finished parts are not repeated. Start the command several times,
    on any machines that share the --runs folder, and the processes divide the runs among themselves.
    """
    from eyeswap.console import open_console, progress_console
    from eyeswap.planning.spec import load_study

    study = load_study(file, changes or ())
    if launcher == "slurm":
        from eyeswap.study.slurm import SlurmOptions, parse_options

        extra = parse_options(slurm_option or [])
        options = SlurmOptions(slurm_partition, slurm_hours, slurm_nodes, slurm_gpus, slurm_cpus, slurm_jobs, extra)
        submit_study(study, file, runs, options, changes or ())
        return
    from eyeswap.cli.report import write_and_show
    from eyeswap.planning.plan import plan_runs
    from eyeswap.planning.tuning import with_tuned_arms
    from eyeswap.report import analyse
    from eyeswap.study.execute import run_study
    from eyeswap.study.local_workers import default_workers, work_together

    unfinished = [run for run in plan_runs(with_tuned_arms(study, runs), runs) if run.state() != "done"]
    count = workers or default_workers(unfinished)
    if unfinished and count > 1:
        arguments = [str(file), "--runs", str(runs), *(f"--set={change}" for change in changes or ())]
        work_together(arguments, count, progress_console())
    folder = run_study(study, file, runs, progress_console())
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process is enough
        write_and_show(analyse(folder), open_console(), trusts_code=True)  # the study names the code


@app.command(hidden=True, epilog="Example: eyeswap study work studies/quickstart.yaml")
def work(file: StudyFile, runs: RunsOption = Path("runs"), changes: Changes = None) -> None:
    """Be one worker of `study run --workers`, which shows what this process sends; no report is written."""
    from eyeswap.console import progress_console
    from eyeswap.planning.spec import load_study
    from eyeswap.progress import send_progress

    send_progress()
    study = load_study(file, changes or ())
    from eyeswap.study.execute import run_study
    from eyeswap.study.local_workers import end_with_standard_input

    end_with_standard_input()
    run_study(study, file, runs, progress_console())


@app.command(epilog="Example: eyeswap study new mine.yaml digits-vit digits-vmamba")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study file to write.")],
    backbones: Annotated[
        list[str],
        typer.Argument(metavar="BACKBONE...", help="One of each arm: catalog name, file.py:function, or timm:name."),
    ],
    miniature: Annotated[
        bool | None,
        typer.Option(
            "--miniature/--published",
            help="Embedded data and LLM, or those of the published recipe; miniature if all backbones are digits-*.",
        ),
    ] = None,
) -> None:
    """Write a commented study file that compares some backbones; nothing is run."""
    from eyeswap.planning.new_study import new_study

    if miniature is None:
        miniature = all(backbone.startswith("digits-") for backbone in backbones)
    new_study(file, backbones, miniature=miniature)
    typer.echo(f"written: {file}\nplan     eyeswap study plan {file}\nrun      eyeswap study run {file}")


@app.command(epilog="Example: eyeswap study fields")
def fields(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON schema, for editors.")] = False,
) -> None:
    """Print every key that a study file may have, with its default and meaning."""
    if as_json:
        from eyeswap.planning.spec import Study

        typer.echo(json.dumps(Study.model_json_schema(), indent=1, ensure_ascii=False))
        return
    from eyeswap.planning.reference import study_reference

    typer.echo(study_reference())


@app.command(epilog="Example: eyeswap study plan studies/paper/matched-in1k-224.yaml --gpu h100 --mfu 0.35")
def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A study file, or a recipe file.")],
    runs: RunsOption = Path("runs"),
    changes: Changes = None,
    gpu: GpuOption = "h200",
    gpus: GpusOption = 1,
    mfu: MfuOption = 0.4,
    text_tokens: TextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a study will take: runs, tokens, parameters, FLOPs, memory and time.

    Starts nothing, loads no weights and shows which runs are already done. A recipe names no backbone, so its costs are
    shown for several numbers of visual tokens. Exits with 2 if an arm cannot run as specified, for example because it
    has more visual tokens than the LLM has positions.
    """
    from eyeswap.cli.plan import show_plan, show_recipe
    from eyeswap.errors import SpecError
    from eyeswap.planning.estimate import Assumptions
    from eyeswap.planning.hardware import find_gpu
    from eyeswap.planning.spec import load_recipe, load_study
    from eyeswap.planning.tuning import with_tuned_arms
    from eyeswap.yaml_reader import read_yaml

    assumptions = Assumptions(find_gpu(gpu), gpus, mfu, text_tokens)
    content = read_yaml(file)
    if isinstance(content, dict) and not {"arms", "question", "benchmarks"} & set(content):
        if changes:
            raise SpecError(f"--set {changes[0]}: only a study can be changed, and {file} is a recipe")
        show_recipe(load_recipe(file), file, assumptions, as_json)
    else:
        show_plan(with_tuned_arms(load_study(file, changes or ()), runs), runs, assumptions, as_json)


@app.command(epilog="Example: eyeswap study status studies/quickstart.yaml --watch")
def status(
    file: StudyFile,
    runs: RunsOption = Path("runs"),
    changes: Changes = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 2 s until all runs are done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of each run: steps, loss, time left, questions answered, worker."""
    from eyeswap.planning.plan import plan_runs
    from eyeswap.planning.spec import load_study
    from eyeswap.planning.tuning import with_tuned_arms

    planned = plan_runs(with_tuned_arms(load_study(file, changes or ()), runs), runs)
    if watch and not as_json:
        watch_status(planned)
    else:
        print_status(planned, as_json)


def submit_study(study: Study, file: Path, runs_dir: Path, options: SlurmOptions, changes: Sequence[str] = ()) -> None:
    """Submit Slurm jobs for the unfinished runs of a study, and print how to follow and cancel them.

    Raises:
        SpecError: if a run folder holds a run of another version of the study.
        EnvironmentProblem: if submitit is not installed or Slurm is not available.
    """
    from eyeswap.planning.plan import plan_runs, refuse_changed
    from eyeswap.study.slurm import logs, submit

    planned = plan_runs(study, runs_dir)
    refuse_changed(planned, file)
    num_left = sum(run.state() != "done" for run in planned)
    if not num_left:
        typer.echo(f"all {len(planned)} runs of {study.name} are done; nothing to submit")
        return
    jobs = submit(file, runs_dir, num_left, options, changes)
    noun = "job" if len(jobs) == 1 else "jobs"
    typer.echo(f"{num_left} of {len(planned)} runs left, shared by {len(jobs)} {noun}: {', '.join(jobs)}")
    typer.echo(f"logs    {logs(file, runs_dir)}")
    changed = "".join(f" --set {shlex.quote(change)}" for change in changes)
    typer.echo(f"watch   eyeswap study status {file} --runs {runs_dir}{changed} --watch")
    typer.echo(f"cancel  scancel {' '.join(dict.fromkeys(job.partition('_')[0] for job in jobs))}")
    typer.echo(f"report  eyeswap report {runs_dir / study.name}")


LOOK_S = 2.0  # refresh interval of --watch
_STYLES = {
    "done": "green",
    "training": "cyan",
    "answering": "cyan",
    "preparing": "cyan",
    "failed": "red",
    "lost": "red",
    "damaged": "red",
}


def print_status(planned: Sequence[PlannedRun], as_json: bool) -> None:
    """Print the progress of a study's runs once."""
    from eyeswap.console import open_console
    from eyeswap.study.status import status_of

    statuses = [status_of(run) for run in planned]
    if as_json:
        content = {"study": planned[0].study.name, "runs": [status.as_dict() for status in statuses]}
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    console = open_console()
    console.print(_board(planned, statuses, console.width))


def watch_status(planned: Sequence[PlannedRun]) -> None:
    """Show the progress of a study's runs until all are done or the user interrupts.

    Without a terminal, the summary line is printed whenever a run changes its activity, and once a minute.
    """
    from rich.live import Live

    from eyeswap.console import open_console
    from eyeswap.study.status import status_of

    console = open_console()
    try:
        if not console.is_terminal:
            _print_changes(planned)
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                statuses = [status_of(run) for run in planned]
                live.update(_board(planned, statuses, console.width), refresh=True)
                if all(status.activity == "done" for status in statuses):
                    return
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return


def _print_changes(planned: Sequence[PlannedRun]) -> None:
    from eyeswap.study.status import status_of

    last_printed: dict[str, tuple[str, float]] = {}
    while True:
        statuses = [status_of(run) for run in planned]
        for status in statuses:
            name, now = f"{status.arm}, seed {status.seed}", time.monotonic()
            before, printed_at = last_printed.get(name, ("", 0.0))
            if status.activity != before or (status.worker and now - printed_at >= 60):
                last_printed[name] = (status.activity, now)
                typer.echo(f"{name}: {_line(status)}")
        if all(status.activity == "done" for status in statuses):
            return
        time.sleep(LOOK_S)


def _line(status: RunStatus) -> str:
    """Return a status as one line of text."""
    from eyeswap.progress import clock

    parts = [status.activity]
    if status.step:
        parts.append(f"{_steps(status)} steps")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    if status.activity == "training" and status.left_s is not None:
        parts.append(f"{clock(status.left_s)} left")
    if sum(status.answered.values()):
        parts.append(f"{_answers(status)} answers")
    parts += [text for text in (status.worker, status.message) if text]
    return ", ".join(parts)


def _board(planned: Sequence[PlannedRun], statuses: Sequence[RunStatus], width: int) -> Group:
    """Return the table of runs and the messages below it, without the columns that are empty in every row."""
    from rich.console import Group
    from rich.text import Text

    from eyeswap.cli.tables import fitted_table
    from eyeswap.progress import clock
    from eyeswap.study.status import count_activities

    study = planned[0].study
    heads = {"arm": 0, "seed": 0, "state": 0, "steps": 0, "loss": 3, "per step": 5, "time left": 1, "answers": 1,
             "benchmarks": 4, "worker": 2}  # fmt: skip
    rows: list[list[str | Text]] = [
        [
            status.arm,
            str(status.seed) if len(study.seeds) > 1 else "",
            Text(status.activity, _STYLES.get(status.activity, "")),
            _steps(status) if status.step else "",
            "" if status.loss is None else f"{status.loss:.3f}",
            "" if status.step_s is None else _seconds(status.step_s),
            clock(status.left_s) if status.activity == "training" and status.left_s is not None else "",
            _answers(status),
            f"{status.num_finished} of {len(study.benchmarks)}",
            status.worker or "",
        ]
        for status in statuses
    ]
    filled = [column for column in range(len(heads)) if any(len(row[column]) for row in rows)]
    table = fitted_table(
        {name: rank for column, (name, rank) in enumerate(heads.items()) if column in filled},
        [[row[column] for column in filled] for row in rows],
        width,
    )
    lines = [Text(", ".join(f"{count} {name}" for name, count in count_activities(statuses).items()))]
    lines += [
        Text.assemble((f"{status.arm}, seed {status.seed}: ", "red"), status.message)
        for status in statuses
        if status.message
    ]
    return Group(Text(study.name, "bold"), table, *lines)


def _steps(status: RunStatus) -> str:
    return f"{status.step:,}" if status.num_steps is None else f"{status.step:,}/{status.num_steps:,}"


def _answers(status: RunStatus) -> str:
    """Return the number of answered questions, with the total once every benchmark's is known."""
    done, total = sum(status.answered.values()), sum(status.asked.values())
    if not done:
        return ""
    return f"{done:,}/{total:,}" if len(status.asked) == len(status.answered) else f"{done:,}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
