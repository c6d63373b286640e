"""Does the training log tell of the training that the record describes?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from eyeswap.audit.finding import Finding
from eyeswap.errors import DataError
from eyeswap.results.run import Run
from eyeswap.training.step import learning_rate


def check_training_log(name: str, run: Run) -> Iterator[Finding]:
    """Yield what of a trained run's log does not fit its record: steps that are missing, another learning rate.

    Args:
        name: the run's name in findings.
        run: the run.
    """
    if run.record.num_steps is None or run.record.images is not None or not run.files.is_scored:
        return  # of a version that recorded no steps, or an evaluation, or still at work
    try:
        problem = _problem(run, run.record.num_steps)
    except DataError as error:
        problem = str(error)
    if problem:
        message = f"the training log does not fit the record: {problem}"
        yield Finding("training-log", "error", (name,), message, {"problem": problem})


def _problem(run: Run, num_steps: int) -> str:
    rows = run.training_rows
    if not rows:
        return "it is missing or empty" if num_steps else ""
    steps = [row.get("step") for row in rows]
    if steps != list(range(num_steps)):
        wrong = next((at for at, step in enumerate(steps) if step != at), len(steps))
        if wrong == len(steps):
            return f"it ends after {len(steps):,} of {num_steps:,} steps"
        return (
            f"row {wrong} tells of step {steps[wrong]}"
            if wrong < num_steps
            else f"it goes on after {num_steps:,} steps"
        )
    return _other_rate(rows, run.record.recipe or {}, num_steps)


def _other_rate(rows: list[dict[str, Any]], recipe: dict[str, Any], num_steps: int) -> str:
    """Return at which step another learning rate is logged than the recipe gives; empty if at none."""
    if "lr" not in recipe or "warmup_fraction" not in recipe:
        return ""
    for step, row in enumerate(rows):
        expected, rate = learning_rate(step, num_steps, recipe["lr"], recipe["warmup_fraction"]), row.get("lr")
        if not isinstance(rate, int | float) or not math.isclose(rate, expected, rel_tol=1e-6, abs_tol=1e-15):
            return f"step {step} was taken with a learning rate of {rate}, the recipe gives {expected:.6g}"
    return ""
