"""The cost of a study or a recipe as tables and JSON: steps, tokens, FLOPs, memory and time."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.planning.estimate import ArmEstimate, Assumptions, StudyEstimate, Workload
    from eyeswap.planning.plan import PlannedRun
    from eyeswap.planning.spec import Study
    from eyeswap.recipe import Recipe

TOKEN_COUNTS = (49, 196, 576, 1024, 2048, 4096)

UNKNOWN = "?"
# Heading and rank of each column: if the table is too wide, columns of the highest rank are dropped first.
NUMBERS = {
    "tokens": 0, "params": 1, "connector": 4, "FLOPs/sample": 4, "FLOPs/run": 3, "GiB/GPU": 2, "GPU time": 0,
    "eval time": 2,
}  # fmt: skip

PARTS = {
    "parameters": "weights, float32, its share",
    "gradients": "gradients at the peak, its share",
    "optimizer": "AdamW's moments, its share",
    "gathered": "layers gathered at the peak",
    "ahead": "the layer that a GPU gathers ahead",
    "activations": "activations and temporary tensors",
    "backbone": "frozen backbone, whole, its weights alone",
}


def show_plan(study: Study, runs_dir: Path, assumptions: Assumptions, as_json: bool) -> None:
    """Print the plan of a study, as tables or as JSON.

    Raises:
        SpecError: if the LLM is on this machine and cannot take the study's training text or questions.
        typer.Exit: with code 2, after everything is printed, if an arm cannot run as specified.
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
        estimate = estimate_study(study, assumptions, board.task("measuring backbones", len(study.arms)).advance)
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
    """Print the cost of training by a recipe, which names no backbone, for several numbers of visual tokens."""
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
    console.print(f"{file}: cost by the backbone's number of visual tokens", style="bold", highlight=False)
    numbers = dict(list(NUMBERS.items())[2:-1])  # without the backbone's own columns and evaluation
    rows = [[estimate.arm, *_cells(estimate)[2:-1]] for estimate in estimates]
    console.print(fitted_table({"backbone with": 0, **numbers}, rows, console.width))
    for line in (*_assumption_lines(work, assumptions), *_memory_lines(estimates, assumptions)):
        console.print(line, highlight=False)
    for estimate in estimates:
        for problem in estimate.problems:
            _print_note(console, f"{estimate.arm}: {problem}")


def show_step(study: Study, ranks: int, assumptions: Assumptions, as_json: bool) -> None:
    """Take one step of the only arm of a study on tensors without data, and print what one process holds.

    Raises:
        EnvironmentProblem: if the sizes of its LLM are unknown on this machine.
        typer.Exit: with code 2, after everything is printed, if it does not fit.
    """
    from eyeswap.cli.tables import fitted_table
    from eyeswap.console import open_console
    from eyeswap.planning.cost import GIB, USABLE_MEMORY, connector_size
    from eyeswap.planning.dry_run import dry_run, largest_pass, llm_config
    from eyeswap.planning.estimate import workload
    from eyeswap.planning.footprint import backbone_footprint

    (name, arm), *_ = study.arms.items()
    recipe, connector, execution = study.recipe_of(name), study.connector_of(name), study.execution
    footprint = backbone_footprint(arm.backbone, study.wiring_of(name), arm.tap, arm.geometry)
    seen = connector_size(connector, footprint.grid, footprint.width, llm_config(recipe.llm).hidden_size).tokens
    largest = largest_pass(recipe, execution, seen or footprint.tokens, workload(recipe, assumptions).text_tokens)
    step = dry_run(recipe, execution, connector, footprint, ranks, largest)
    limit = USABLE_MEMORY * assumptions.gpu.memory_gib * GIB
    fits = step.peak <= limit
    if as_json:
        typer.echo(json.dumps({**asdict(step), "peak": step.peak, "limit": limit, "fits": fits}, indent=1))
    else:
        console = open_console()
        console.print(f"one pass of {step.tokens:,} tokens on each of {ranks} processes", style="bold", highlight=False)
        rows = [[text, f"{getattr(step, part) / GIB:.2f}"] for part, text in PARTS.items()]
        console.print(fitted_table({"one process": 0, "GiB": 0}, [*rows, ["peak", f"{step.peak / GIB:.2f}"]], 80))
        for kind, (count, size) in step.collectives.items():
            console.print(f"{kind}: {count} a pass, {size / GIB:.2f} GiB of whole tensors", highlight=False)
        verdict = "fits" if fits else "does not fit"
        memory = f"{USABLE_MEMORY:.0%} of {assumptions.gpu.memory_gib:.0f} GiB ({assumptions.gpu.name})"
        console.print(f"{verdict} into {memory}", highlight=False)
    if not fits:
        raise typer.Exit(2)


def _summary(study: Study, planned: list[PlannedRun], estimate: StudyEstimate) -> list[str]:
    """Return the lines below the table: totals, assumptions and memory."""
    states = Counter[str](run.state() for run in planned)
    unfinished = [estimate.arms[run.arm] for run in planned if run.state() != "done"]
    seeds = ", ".join(map(str, study.seeds))
    lines = [f"{len(planned)} runs, seed {seeds}: {', '.join(f'{count} {state}' for state, count in states.items())}"]
    if len(study.seeds) == 1 and study.seed_sd is None:
        lines.append(
            "one seed per arm and no seed_sd: this study can show how these runs differ on these images, but it cannot "
            "decide which arm is better"
        )
    tune = study.tune
    if tune is not None:
        steps = "as many steps as a run" if tune.steps is None else f"{tune.steps:,} steps"
        lines.append(
            f"tune: {len(tune.lr)} trials per arm of {steps} with seed {tune.on}, evaluated on the training splits; "
            "an arm gets a tuned twin if another rate is best for it; trials are not included in the totals"
        )
    if unfinished:
        lines.append(_total_line(unfinished))
    lines += _assumption_lines(estimate.workload, estimate.assumptions)
    lines += _memory_lines(estimate.arms.values(), estimate.assumptions)
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
    """Return the numbers of one arm in the order of `NUMBERS`, with a question mark for each unknown one."""
    footprint, memory = estimate.footprint, estimate.memory
    return [
        UNKNOWN if estimate.visual_tokens is None else f"{estimate.visual_tokens:,}",
        UNKNOWN if footprint is None else scaled(footprint.parameters, "kMB") if footprint.parameters else "-",
        scaled(estimate.connector_parameters, "kMB"),
        scaled(estimate.flops_per_sample, "kMGTPEZ"),
        scaled(estimate.train_flops, "kMGTPEZ"),
        UNKNOWN if memory is None else f"{memory.states_gib:.1f}",
        duration(estimate.train_gpu_hours),
        duration(estimate.eval_gpu_hours),
    ]


def _total_line(estimates: Sequence[ArmEstimate]) -> str:
    """Return the total GPU time of unfinished runs, and how many of them have no estimate."""
    train = [arm.train_gpu_hours for arm in estimates if arm.train_gpu_hours is not None]
    evaluation = [arm.eval_gpu_hours for arm in estimates if arm.eval_gpu_hours is not None]
    if not train:
        return "GPU time of unfinished runs: unknown"
    prefill = f" and {duration(sum(evaluation))} of evaluation (prefill only)" if evaluation else ""
    unknown = len(estimates) - len(train)
    return f"GPU time of unfinished runs: {duration(sum(train))} of training{prefill}" + (
        f"; {unknown} of {len(estimates)} runs are unknown and not included" if unknown else ""
    )


def _assumption_lines(work: Workload, assumptions: Assumptions) -> list[str]:
    """Return the assumptions behind an estimate, one line each."""
    gpu = assumptions.gpu
    steps = "an unknown number of steps" if work.steps is None else f"{work.steps:,} steps"
    conversations = "" if work.conversations is None else f" over {work.conversations:,} conversations"
    return [
        f"per run: {steps}{conversations}, {work.text_tokens:.0f} text tokens each (--text-tokens)",
        f"{assumptions.num_gpus} x {gpu.name} per run: {gpu.peak_tflops:,.0f} TFLOP/s bf16 at {assumptions.mfu:.0%}, "
        f"{gpu.memory_gib:.0f} GiB (--gpu --gpus --mfu); 16 bytes per trained parameter, sharded",
    ]


def _memory_lines(estimates: Iterable[ArmEstimate], assumptions: Assumptions) -> list[str]:
    """Return whether training fits into GPU memory, judged by the arm that needs most."""
    memories = [arm.memory for arm in estimates if arm.memory is not None]
    if not memories:
        return []
    worst = min(memories, key=lambda memory: memory.free_gib)
    if worst.free_gib > 0 and worst.checkpointed_tokens:
        return [
            f"memory: {worst.free_gib:.0f} GiB are left for activations, enough for {worst.plain_tokens:,} tokens per "
            f"forward pass, {worst.elementwise_tokens:,} if elementwise operations are recomputed, "
            f"{worst.checkpointed_tokens:,} if whole layers are"
        ]
    remedy = "no number of them suffices" if worst.fewest_gpus is None else f"at least {worst.fewest_gpus} are needed"
    return [
        f"memory: {worst.states_gib:.0f} GiB of weights, gradients and optimizer state do not fit on "
        f"{assumptions.num_gpus} x {assumptions.gpu.name}: {remedy}"
    ]


def _print_notes(console: Console, estimate: StudyEstimate) -> None:
    """Print notes, each once for all arms that share it, and then the problems that stop arms."""
    arms_by_note: dict[str, list[str]] = {}
    for arm in estimate.arms.values():
        for note in arm.notes:
            arms_by_note.setdefault(note.removeprefix(f"arms.{arm.arm}: "), []).append(arm.arm)
    for note in estimate.notes:
        _print_note(console, note)
    for note, arms in arms_by_note.items():
        names = ", ".join(arms) if len(arms) <= 3 else f"{len(arms)} arms ({arms[0]}, ...)"
        _print_note(console, f"{names}: {note}")
    for problem in estimate.problems:
        _print_note(console, problem, "problem", "red")


def _print_note(console: Console, note: str, label: str = "note", style: str = "yellow") -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{label}:", style), f" {note}"))


def _estimate_as_dict(estimate: ArmEstimate) -> dict[str, Any]:
    """Return an arm's estimate as plain data; each key names its unit."""
    return asdict(estimate)


def _print_json(value: dict[str, Any]) -> None:
    """Print plain data and dataclasses as JSON."""
    plain = {
        key: asdict(item) if is_dataclass(item) and not isinstance(item, type) else item for key, item in value.items()
    }
    typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))


def scaled(value: float | None, prefixes: str) -> str:
    """Return a number to three significant digits with an SI-style prefix, such as ``31.3M``."""
    if value is None:
        return UNKNOWN
    power = 0 if value < 1 else min(int(math.log10(value)) // 3, len(prefixes))
    number = value / 1000**power
    digits = f"{number:.0f}" if number >= 100 or not power else f"{number:.1f}"
    return digits + (prefixes[power - 1] if power else "")


def duration(hours: float | None) -> str:
    """Return a number of hours as seconds, minutes or hours, whichever reads best."""
    if hours is None:
        return UNKNOWN
    for unit, size, limit in (("s", 3600, 1 / 60), ("min", 60, 1)):
        if hours < limit:
            return f"{hours * size:.1f} {unit}" if hours * size < 10 else f"{hours * size:.0f} {unit}"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
