"""What `eyeswap study plan` prints: every run with its digest and state, what each takes, and the sum."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from eyeswap.cli import estimate_tables as shown
from eyeswap.cli.console import fitted_table, open_console
from eyeswap.progress import progress
from eyeswap.study.estimate import Assumptions, StudyEstimate, estimate_study
from eyeswap.study.plan import PlannedRun, plan_runs
from eyeswap.study.spec import Study


def show_plan(study: Study, runs_dir: Path, assumptions: Assumptions, as_json: bool) -> None:
    """Print the plan of a study, as tables or as JSON."""
    planned = plan_runs(study, runs_dir)
    with progress(Console(stderr=True)) as board:
        found = estimate_study(study, assumptions, board.task("measure the backbones", len(study.arms)).advance)
    if as_json:
        shown.print_json(_as_dict(study, planned, found))
        return
    console = open_console()
    heads = {"arm": 0, **({"seed": 0} if len(study.seeds) > 1 else {}), **shown.NUMBERS, "digest": 3, "state": 0}
    rows = [
        [
            run.arm,
            *([str(run.seed)] if "seed" in heads else []),
            *shown.estimate_cells(found.arms[run.arm]),
            run.digest[:8],
            run.state(),
        ]
        for run in sorted(planned, key=lambda run: list(study.arms).index(run.arm))
    ]
    console.print(study.question, style="bold", highlight=False)
    console.print(fitted_table(heads, rows, console.width))
    for line in _summary(study, planned, found):
        console.print(line, highlight=False)
    shown.print_notes(console, found)


def _summary(study: Study, planned: list[PlannedRun], found: StudyEstimate) -> list[str]:
    """Return the sums and what they assume."""
    states = Counter[str](run.state() for run in planned)
    left = [found.arms[run.arm] for run in planned if run.state() != "done"]
    seeds = ", ".join(map(str, study.seeds))
    lines = [f"{len(planned)} runs, seed {seeds}: {shown.state_words(states)}"]
    if left:
        lines.append(shown.sum_line(left, "what is not done"))
    lines += shown.summary_lines(found.workload, found.assumptions)
    lines += shown.memory_lines(found.arms.values(), found.assumptions)
    lines.append(f"benchmarks: {', '.join(study.benchmarks)}")
    lines.append(f"recipe {study.recipe.digest[:8]}; arms may differ in {', '.join(study.may_differ)}")
    return lines


def _as_dict(study: Study, planned: list[PlannedRun], found: StudyEstimate) -> dict[str, Any]:
    return {
        "study": study.name,
        "question": study.question,
        "recipe_digest": study.recipe.digest,
        "may_differ": study.may_differ,
        "benchmarks": study.benchmarks,
        "assumptions": found.assumptions,
        "workload": found.workload,
        "llm": found.llm,
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
                "estimate": shown.estimate_as_dict(found.arms[run.arm]),
            }
            for run in planned
        ],
        "notes": found.notes,
        "problems": found.problems,
    }
