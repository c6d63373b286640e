"""How estimates are shown: one table of arms or runs, then what they assume and what to know about them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.planning.estimate import ArmEstimate, Assumptions, StudyEstimate, Workload

UNKNOWN = "?"
# Heading of each column, and its rank: where a table is too wide, columns of the highest rank are left out first.
NUMBERS = {
    "tokens": 0, "at tap": 1, "connector": 4, "FLOP a sample": 4, "FLOP a run": 3, "GiB a GPU": 2, "GPU time": 0,
    "questions": 2,
}  # fmt: skip


def estimate_cells(estimate: ArmEstimate) -> list[str]:
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


def sum_line(estimates: Sequence[ArmEstimate], what: str) -> str:
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


def summary_lines(work: Workload, assumptions: Assumptions) -> list[str]:
    """Return what an estimate assumes, in sentences."""
    given, gpu = assumptions, assumptions.gpu
    steps = "an unknown number of steps" if work.steps is None else f"{work.steps:,} steps"
    conversations = "" if work.conversations is None else f" over {work.conversations:,} conversations"
    return [
        f"a run: {steps}{conversations}, {work.text_tokens:.0f} text tokens each (--text-tokens)",
        f"{given.num_gpus} x {gpu.name} for a run: {gpu.peak_tflops:,.0f} TFLOP/s bf16 at {given.mfu:.0%}, "
        f"{gpu.memory_gib:.0f} GiB (--gpu --gpus --mfu); 16 bytes a trained parameter, shared out",
    ]


def memory_lines(estimates: Iterable[ArmEstimate], assumptions: Assumptions) -> list[str]:
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


def print_notes(console: Console, estimate: StudyEstimate) -> None:
    """Print what to know, one line for all arms that share it, and then what stops arms."""
    arms_by_note: dict[str, list[str]] = {}
    for arm in estimate.arms.values():
        for note in arm.notes:
            arms_by_note.setdefault(note.removeprefix(f"arms.{arm.arm}: "), []).append(arm.arm)
    for note in estimate.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    for note, arms in arms_by_note.items():
        who = ", ".join(arms) if len(arms) <= 3 else f"{len(arms)} arms ({arms[0]}, ...)"
        console.print(f"[yellow]note:[/yellow] {escape(f'{who}: {note}')}", highlight=False)
    for problem in estimate.problems:
        console.print(f"[red]problem:[/red] {escape(problem)}", highlight=False)


def estimate_as_dict(estimate: ArmEstimate) -> dict[str, Any]:
    """Return an arm's estimate as plain data; FLOPs, hours and bytes in the units that the keys name."""
    plain = asdict(estimate)
    if estimate.footprint is not None:
        plain["visual_tokens"] = estimate.footprint.tokens
    return plain


def print_json(value: dict[str, Any]) -> None:
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


def state_words(counts: Mapping[str, int]) -> str:
    """Return how many runs are in which state."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)
