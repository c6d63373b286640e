"""Were all runs asked the same questions, and are their answers their own? Compares predictions between runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from eyeswap.audit.finding import Finding
from eyeswap.errors import DataError
from eyeswap.results.run import Run

# Data of a question besides its prompt and image; scores of subsets, baselines and box frames follow from them.
_BESIDE = ("question", "subset", "kind", "details", "true_box_px", "image_width", "image_height", "baseline_score")
_SAME_FOR_ALL_ARMS = (None, "original", "padded-square")  # a constant box scores the same in every arm

Tables = Mapping[str, pa.Table]


def check_between_runs(runs: Mapping[str, Run]) -> Iterator[Finding]:
    """Yield where predictions of different runs differ although they must agree, or agree although they cannot.

    Args:
        runs: the runs by name.
    """
    for benchmark in dict.fromkeys(name for run in runs.values() for name in run.asked):
        tables = {name: table for name, run in runs.items() if (table := _table(run, benchmark)) is not None}
        frames = {run.asked[benchmark].box_frame for run in runs.values() if benchmark in run.asked}
        yield from _errors(benchmark, tables)
        yield from _questions(benchmark, tables, with_baseline=frames <= set(_SAME_FOR_ALL_ARMS))
        yield from _copies(benchmark, tables)


def _table(run: Run, benchmark: str) -> pa.Table | None:
    """Return the predictions of a run; None if they cannot be read, which `check_answers` reports."""
    try:
        return next((predictions.table for predictions in run.predictions if predictions.name == benchmark), None)
    except DataError:
        return None


def _errors(benchmark: str, tables: Tables) -> Iterator[Finding]:
    """Examples that could not be asked or scored: an error if the runs differ in them."""
    failed = {name: _failed(table) for name, table in tables.items()}
    if len(set(failed.values())) > 1:
        counts = {name: len(ids) for name, ids in failed.items()}
        yield Finding(
            "errors",
            "error",
            tuple(name for name, count in counts.items() if count),
            f"{benchmark}: questions could not be asked or scored in some runs, and count as wrong there: "
            + "; ".join(f"{name} {count:,}" for name, count in counts.items()),
            {"benchmark": benchmark, "errors": counts},
            together=True,
        )
    elif any(failed.values()):
        count = len(next(iter(failed.values())))
        message = f"{benchmark}: {count:,} questions could not be asked or scored in any run, and count as wrong"
        yield Finding("errors", "note", tuple(failed), message, {"benchmark": benchmark, "errors": count}, True)


def _failed(table: pa.Table) -> frozenset[str]:
    """Return the ids of the examples that could not be asked or scored."""
    if "error" not in table.column_names:
        return frozenset()
    rows = zip(table.column("example_id").to_pylist(), table.column("error").to_pylist(), strict=True)
    return frozenset(example_id for example_id, error in rows if error is not None)


def _questions(benchmark: str, tables: Tables, *, with_baseline: bool) -> Iterator[Finding]:
    """Questions whose data differ from those of the first run."""
    columns = _BESIDE if with_baseline else _BESIDE[:-1]
    names = list(tables)
    for name in names[1:]:
        first, other = tables[names[0]], tables[name]
        differing = _differing(first, other, columns)
        if differing:
            message = f"{benchmark}: the questions of {name} differ from those of {names[0]} in {', '.join(differing)}"
            yield Finding("questions", "error", (name,), message, {"benchmark": benchmark, "columns": differing})


def _differing(first: pa.Table, other: pa.Table, columns: tuple[str, ...]) -> list[str]:
    """Return the columns that differ; other or reordered questions are reported by `check_answers`."""
    if not first.column("example_id").equals(other.column("example_id")):
        return []
    answered = [pc.is_null(table.column("error")) for table in (first, other) if "error" in table.column_names]
    if answered:  # some columns of failed questions are empty
        both = functools.reduce(pc.and_, answered)
        first, other = first.filter(both), other.filter(both)
    shared = [column for column in columns if column in first.column_names and column in other.column_names]
    return [
        column
        for column in shared
        if first.schema.field(column).type == other.schema.field(column).type
        and not first.column(column).equals(other.column(column))
    ]


def _copies(benchmark: str, tables: Tables) -> Iterator[Finding]:
    """Runs whose answers took exactly the same times: one of them is a copy."""
    seen: dict[bytes, str] = {}
    for name, table in tables.items():
        if "latency_s" not in table.column_names or pc.count_distinct(table.column("latency_s")).as_py() < 2:
            continue  # constant times identify nothing
        original = seen.setdefault(table.column("latency_s").to_numpy().tobytes(), name)
        if original != name:
            message = f"{benchmark}: every answer of {name} took exactly as long as in {original}: one is a copy"
            evidence = {"benchmark": benchmark, "runs": [original, name]}
            yield Finding("copied-answers", "error", (original, name), message, evidence, together=True)
