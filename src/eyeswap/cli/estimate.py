"""`eyeswap estimate STUDY|RECIPE`: steps, tokens, FLOPs, memory and time, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eyeswap.planning.estimate import Assumptions
    from eyeswap.planning.spec import Study
    from eyeswap.recipe import Recipe

GpuOption = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="h200, h100, a100, b200, ..., or <TFLOP/s>:<GiB> such as 71:24.")
]
GpusOption = Annotated[int, typer.Option("--gpus", help="GPUs that train one run together.")]
MfuOption = Annotated[
    float,
    typer.Option("--mfu", help="Model FLOPs utilization: the share of the GPU's bf16 peak that training reaches."),
]
TextOption = Annotated[
    float | None,
    typer.Option("--text-tokens", help="Mean text tokens of a conversation; 300 for real data unless given."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]

TOKEN_COUNTS = (49, 196, 576, 1024, 2048, 4096)


def estimate(
    file: Annotated[Path, typer.Argument(metavar="STUDY|RECIPE", help="A study file, or a recipe file.")],
    gpu: GpuOption = "h200",
    gpus: GpusOption = 1,
    mfu: MfuOption = 0.4,
    text_tokens: TextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a study or a recipe will take: steps, tokens, FLOPs, memory, time. Loads no weights and no data.

    A study is estimated arm by arm; a recipe, which names no backbone, for several numbers of visual tokens.
    Exits with 2 if an arm cannot run as it is, such as one with more visual tokens than the LLM has positions.
    """
    from eyeswap.planning.estimate import Assumptions
    from eyeswap.planning.hardware import find_gpu
    from eyeswap.yaml_reader import read_yaml

    assumptions = Assumptions(find_gpu(gpu), gpus, mfu, text_tokens)
    content = read_yaml(file)
    if isinstance(content, dict) and not {"arms", "question", "benchmarks"} & set(content):
        from eyeswap.planning.spec import load_recipe

        _recipe(load_recipe(file), file, assumptions, as_json)
    else:
        from eyeswap.planning.spec import load_study

        show_estimate(load_study(file), assumptions, as_json)


def show_estimate(study: Study, assumptions: Assumptions, as_json: bool) -> None:
    """Print what a study will take, arm by arm; leave with 2 if an arm cannot run as it is."""
    from eyeswap.cli import estimate_tables as shown
    from eyeswap.cli.console import fitted_table, open_console
    from eyeswap.planning.estimate import estimate_study
    from eyeswap.progress import progress

    console = open_console()
    with progress() as board:
        found = estimate_study(study, assumptions, board.task("measure the backbones", len(study.arms)).advance)
    if as_json:
        shown.print_json(
            {
                "study": study.name,
                "assumptions": assumptions,
                "workload": found.workload,
                "llm": found.llm,
                "arms": {name: shown.estimate_as_dict(arm) for name, arm in found.arms.items()},
                "notes": found.notes,
                "problems": found.problems,
            }
        )
    else:
        rows = [[name, *shown.estimate_cells(arm)] for name, arm in found.arms.items()]
        console.print(study.question, style="bold", highlight=False)
        console.print(fitted_table({"arm": 0, **shown.NUMBERS}, rows, console.width))
        runs = [arm for arm in found.arms.values() for _ in study.seeds]
        many = "the run" if len(runs) == 1 else f"all {len(runs)} runs"
        lines = [shown.sum_line(runs, f"{many}, seed {', '.join(map(str, study.seeds))}")]
        lines += shown.summary_lines(found.workload, assumptions)
        lines += shown.memory_lines(found.arms.values(), assumptions)
        for line in lines:
            console.print(line, highlight=False)
        shown.print_notes(console, found)
    if found.problems:
        raise typer.Exit(2)


def _recipe(recipe: Recipe, file: Path, assumptions: Assumptions, as_json: bool) -> None:
    from eyeswap.cli import estimate_tables as shown
    from eyeswap.cli.console import fitted_table, open_console
    from eyeswap.planning.estimate import estimate_recipe, workload

    found = [estimate_recipe(recipe, tokens, assumptions) for tokens in TOKEN_COUNTS]
    work = workload(recipe, assumptions)
    if as_json:
        arms = {one.arm: shown.estimate_as_dict(one) for one in found}
        shown.print_json({"recipe": recipe.digest, "assumptions": assumptions, "workload": work, "arms": arms})
        return
    console = open_console()
    console.print(f"{file}: what a backbone costs by its visual tokens", style="bold", highlight=False)
    numbers = dict(list(shown.NUMBERS.items())[2:-1])  # without those of a backbone and of questions
    rows = [[one.arm, *shown.estimate_cells(one)[2:-1]] for one in found]
    console.print(fitted_table({"backbone with": 0, **numbers}, rows, console.width))
    for line in (*shown.summary_lines(work, assumptions), *shown.memory_lines(found, assumptions)):
        console.print(line, highlight=False)
    for one in found:
        for problem in one.problems:
            console.print(f"[yellow]note:[/yellow] {one.arm}: {problem}", highlight=False)
