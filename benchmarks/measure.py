"""Time candidates against each other in one run, and print the results with a description of the machine.

Only ratios within a run are meaningful, because a machine drifts by 10 to 20 percent between runs. So candidates take
turns, in an order that is reversed every round, after an uncounted warm-up.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eyeswap.runs.environment import environment


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed call of one candidate."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest over fastest."""
        return max(self.seconds) / min(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        return {"median_s": self.median, "min_s": self.fastest, "spread": self.spread, "calls": len(self.seconds)}


def interleave(candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Call every candidate once per round, reversing the order every round; return their timings."""
    for call in candidates.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            started = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with the first column left-aligned."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=140).print(table)


def machine() -> dict[str, Any]:
    """Return versions, processor and number of threads."""
    return environment().model_dump(mode="json")


def write_results(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write all results as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
