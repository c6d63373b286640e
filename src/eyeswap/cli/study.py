"""`eyeswap study run|plan|status FILE`: do a study, show what it would do, show how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyeswap.cli.estimate import GpuOption, GpusOption, JsonOption, MfuOption, TextOption

app = typer.Typer(no_args_is_help=True, help="Run a study, or look at its plan and progress.")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study, a YAML file.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs of all studies.")]


@app.command(epilog="Example: eyeswap study run studies/quickstart.yaml")
def run(file: StudyFile, runs: Runs = Path("runs")) -> None:
    """Train and evaluate every arm and seed, then write the report; finished parts are not done again."""
    from eyeswap.cli.console import open_console
    from eyeswap.study.spec import load_study

    study = load_study(file)
    from eyeswap.cli.report import write_and_show
    from eyeswap.study.execute import run_study

    console = open_console()
    write_and_show(run_study(study, file, runs, console), console)


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


@app.command(epilog="Example: eyeswap study status studies/quickstart.yaml")
def status(file: StudyFile, runs: Runs = Path("runs")) -> None:
    """Show how far each run is: training steps, last loss, benchmarks answered."""
    from rich.table import Table

    from eyeswap.cli.console import open_console
    from eyeswap.study.plan import plan_runs
    from eyeswap.study.spec import load_study

    study = load_study(file)
    table = Table("arm", "seed", "state", "steps", "loss", "elapsed", "benchmarks answered", title=study.name)
    for planned in plan_runs(study, runs):
        at = planned.progress()
        loss = "" if at.loss is None else f"{at.loss:.3f}"
        elapsed = "" if at.elapsed_s is None else f"{at.elapsed_s:.0f} s"
        answered = f"{at.num_answered} of {len(study.benchmarks)}"
        table.add_row(planned.arm, str(planned.seed), planned.state(), str(at.step), loss, elapsed, answered)
    open_console().print(table)
