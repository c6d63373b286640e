"""What a study or a recipe will take, as tables and JSON: steps, tokens, FLOPs, memory and time."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.planning.estimate import ArmEstimate, Assumptions, StudyEstimate, Workload
    from eyeswap.planning.plan import PlannedRun
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

UNKNOWN = "?"
# Heading of each column, and its rank: where a table is too wide, columns of the highest rank are left out first.
NUMBERS = {
    "tokens": 0, "at tap": 1, "connector": 4, "FLOP a sample": 4, "FLOP a run": 3, "GiB a GPU": 2, "GPU time": 0,
    "questions": 2,
}  # fmt: skip


def show_plan(study: Study, runs_dir: Path, assumptions: Assumptions, as_json: bool) -> None:
    """Print the plan of a study, as tables or as JSON.

    Raises:
        SpecError: if the LLM is on this machine and cannot be taught or asked what the study wants.
        typer.Exit: with 2, after all is printed, if an arm cannot run as it is.
    """
    from eyeswap.cli.tables import fitted_table
    from eyeswap.console import open_console
    from eyeswap.planning.estimate import estimate_study
    from eyeswap.planning.llm import check_llm
    from eyeswap.planning.plan import plan_runs
    from eyeswap.progress import progress

    check_llm(study)
    planned = plan_runs(study, runs_dir)
    with progress() as board:
        estimate = estimate_study(study, assumptions, board.task("measure the backbones", len(study.arms)).advance)
    if as_json:
        _print_json(_as_dict(study, planned, estimate))
    else:
        console = open_console()
        heads = {"arm": 0, **({"seed": 0} if len(study.seeds) > 1 else {}), **NUMBERS, "digest": 3, "state": 0}
        rows = [
            [
                run.arm,
                *([str(run.seed)] if "seed" in heads else []),
                *_cells(estimate.arms[run.arm]),
                run.digest[:8],
                run.state(),
            ]
            for run in sorted(planned, key=lambda run: list(study.arms).index(run.arm))
        ]
        console.print(study.question, style="bold", highlight=False)
        console.print(fitted_table(heads, rows, console.width))
        for line in _summary(study, planned, estimate):
            console.print(line, highlight=False)
        _print_notes(console, estimate)
    if estimate.problems:
        raise typer.Exit(2)


def show_recipe(recipe: Recipe, file: Path, assumptions: Assumptions, as_json: bool) -> None:
    """Print what a recipe, which names no backbone, will take for several numbers of visual tokens."""
    from eyeswap.cli.tables import fitted_table
    from eyeswap.console import open_console
    from eyeswap.planning.estimate import estimate_recipe, workload

    estimates = [estimate_recipe(recipe, tokens, assumptions) for tokens in TOKEN_COUNTS]
    work = workload(recipe, assumptions)
    if as_json:
        arms = {estimate.arm: _estimate_as_dict(estimate) for estimate in estimates}
        _print_json({"recipe": recipe.digest, "assumptions": assumptions, "workload": work, "arms": arms})
        return
    console = open_console()
    console.print(f"{file}: what a backbone costs by its visual tokens", style="bold", highlight=False)
    numbers = dict(list(NUMBERS.items())[2:-1])  # without those of a backbone and of questions
    rows = [[estimate.arm, *_cells(estimate)[2:-1]] for estimate in estimates]
    console.print(fitted_table({"backbone with": 0, **numbers}, rows, console.width))
    for line in (*_assumed(work, assumptions), *_memory(estimates, assumptions)):
        console.print(line, highlight=False)
    for estimate in estimates:
        for problem in estimate.problems:
            _print_note(console, f"{estimate.arm}: {problem}")


def _summary(study: Study, planned: list[PlannedRun], estimate: StudyEstimate) -> list[str]:
    """Return the sums and what they assume."""
    states = Counter[str](run.state() for run in planned)
    left = [estimate.arms[run.arm] for run in planned if run.state() != "done"]
    seeds = ", ".join(map(str, study.seeds))
    lines = [f"{len(planned)} runs, seed {seeds}: {', '.join(f'{count} {state}' for state, count in states.items())}"]
    if len(study.seeds) == 1 and study.seed_sd is None:
        lines.append(
            "one seed an arm and no seed_sd: this can show how these runs differ on these images; which arm is better, "
            "it cannot decide"
        )
    if left:
        lines.append(_sum_line(left, "what is not done"))
    lines += _assumed(estimate.workload, estimate.assumptions)
    lines += _memory(estimate.arms.values(), estimate.assumptions)
    lines.append(f"benchmarks: {', '.join(study.benchmarks)}")
    lines.append(f"recipe {study.recipe.digest[:8]}; arms may differ in {', '.join(study.may_differ)}")
    return lines


def _as_dict(study: Study, planned: list[PlannedRun], estimate: StudyEstimate) -> dict[str, Any]:
    return {
        "study": study.name,
        "question": study.question,
        "recipe_digest": study.recipe.digest,
        "may_differ": study.may_differ,
        "benchmarks": study.benchmarks,
        "assumptions": estimate.assumptions,
        "workload": estimate.workload,
        "llm": estimate.llm,
        "arms": {name: _estimate_as_dict(arm) for name, arm in estimate.arms.items()},
        "runs": [
            {
                "arm": run.arm,
                "seed": run.seed,
                "digest": run.digest,
                "state": run.state(),
                "folder": str(run.folder),
                "backbone": study.arms[run.arm].backbone,
                "connector": study.connector_of(run.arm),
                "wiring": study.wiring_of(run.arm),
                "overrides": study.arms[run.arm].overrides,
            }
            for run in planned
        ],
        "notes": estimate.notes,
        "problems": estimate.problems,
    }


def _cells(estimate: ArmEstimate) -> list[str]:
    """Return the numbers of one arm, in the order of `NUMBERS`; what is not known is a question mark."""
    footprint, memory = estimate.footprint, estimate.memory
    return [
        UNKNOWN if footprint is None else f"{footprint.tokens:,}",
        UNKNOWN if footprint is None else scaled(footprint.parameters, "kMB") if footprint.parameters else "-",
        scaled(estimate.connector_parameters, "kMB"),
        scaled(estimate.flops_per_sample, "kMGTPEZ"),
        scaled(estimate.train_flops, "kMGTPEZ"),
        UNKNOWN if memory is None else f"{memory.states_gib:.1f}",
        duration(estimate.train_gpu_hours),
        duration(estimate.eval_gpu_hours),
    ]


def _sum_line(estimates: Sequence[ArmEstimate], what: str) -> str:
    """Return how much GPU time some runs take together, and what of it is not known."""
    train = [one.train_gpu_hours for one in estimates if one.train_gpu_hours is not None]
    asked = [one.eval_gpu_hours for one in estimates if one.eval_gpu_hours is not None]
    if not train:
        return f"GPU time of {what}: not known"
    questions = f", and {duration(sum(asked))} for reading the questions" if asked else ""
    unknown = len(estimates) - len(train)
    return f"GPU time of {what}: {duration(sum(train))} of training{questions}" + (
        f"; {unknown} of {len(estimates)} runs are not known and not in it" if unknown else ""
    )


def _assumed(work: Workload, assumptions: Assumptions) -> list[str]:
    """Return what an estimate assumes, in sentences."""
    given, gpu = assumptions, assumptions.gpu
    steps = "an unknown number of steps" if work.steps is None else f"{work.steps:,} steps"
    conversations = "" if work.conversations is None else f" over {work.conversations:,} conversations"
    return [
        f"a run: {steps}{conversations}, {work.text_tokens:.0f} text tokens each (--text-tokens)",
        f"{given.num_gpus} x {gpu.name} for a run: {gpu.peak_tflops:,.0f} TFLOP/s bf16 at {given.mfu:.0%}, "
        f"{gpu.memory_gib:.0f} GiB (--gpu --gpus --mfu); 16 bytes a trained parameter, shared out",
    ]


def _memory(estimates: Iterable[ArmEstimate], assumptions: Assumptions) -> list[str]:
    """Return whether training fits into the memory, judged by the arm that needs most."""
    memories = [one.memory for one in estimates if one.memory is not None]
    if not memories:
        return []
    worst = min(memories, key=lambda memory: memory.free_gib)
    if worst.free_gib > 0 and worst.checkpointed_tokens:
        return [
            f"memory: {worst.free_gib:.0f} GiB beside the states hold {worst.plain_tokens:,} tokens of a pass, "
            f"{worst.elementwise_tokens:,} with elementwise parts recomputed, {worst.checkpointed_tokens:,} with all"
        ]
    fewest = "no number of them" if worst.fewest_gpus is None else f"at least {worst.fewest_gpus} of them"
    return [
        f"memory: {worst.states_gib:.0f} GiB of states do not fit on {assumptions.num_gpus} x "
        f"{assumptions.gpu.name}: it takes {fewest}"
    ]


def _print_notes(console: Console, estimate: StudyEstimate) -> None:
    """Print what to know, one line for all arms that share it, and then what stops arms."""
    arms_by_note: dict[str, list[str]] = {}
    for arm in estimate.arms.values():
        for note in arm.notes:
            arms_by_note.setdefault(note.removeprefix(f"arms.{arm.arm}: "), []).append(arm.arm)
    for note in estimate.notes:
        _print_note(console, note)
    for note, arms in arms_by_note.items():
        who = ", ".join(arms) if len(arms) <= 3 else f"{len(arms)} arms ({arms[0]}, ...)"
        _print_note(console, f"{who}: {note}")
    for problem in estimate.problems:
        _print_note(console, problem, "problem", "red")


def _print_note(console: Console, note: str, label: str = "note", style: str = "yellow") -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{label}:", style), f" {note}"))


def _estimate_as_dict(estimate: ArmEstimate) -> dict[str, Any]:
    """Return an arm's estimate as plain data; FLOPs, hours and bytes in the units that the keys name."""
    plain = asdict(estimate)
    if estimate.footprint is not None:
        plain["visual_tokens"] = estimate.footprint.tokens
    return plain


def _print_json(value: dict[str, Any]) -> None:
    """Print plain data and dataclasses as JSON."""
    plain = {
        key: asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for key, part in value.items()
    }
    typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))


def scaled(value: float | None, prefixes: str) -> str:
    """Return a number with three digits that count and a prefix for its thousands, such as ``31.3M``."""
    if value is None:
        return UNKNOWN
    power = 0 if value < 1 else min(int(math.log10(value)) // 3, len(prefixes))
    number = value / 1000**power
    digits = f"{number:.0f}" if number >= 100 or not power else f"{number:.1f}"
    return digits + (prefixes[power - 1] if power else "")


def duration(hours: float | None) -> str:
    """Return hours in the unit that reads best."""
    if hours is None:
        return UNKNOWN
    for unit, size, limit in (("s", 3600, 1 / 60), ("min", 60, 1)):
        if hours < limit:
            return f"{hours * size:.1f} {unit}" if hours * size < 10 else f"{hours * size:.0f} {unit}"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
