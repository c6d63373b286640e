"""Compare any two runs, or evaluations, on the examples that both answered.

Examples are joined by their ids, so that order and number may differ. All differences are the second run minus the
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.evaluation.counting import spelled_out
from eyeswap.results.averages import Piece, gather_pieces, members, pieces
from eyeswap.results.scores import Predictions, read_run_predictions
from eyeswap.runs.folder import RunFolder
from eyeswap.statistics.differences import compare_arms, holm, mcnemar

_MAX_IDS = 20  # unmatched example ids that are listed


@dataclass(frozen=True)
class Joined:
    """The examples of one benchmark that both runs answered.

    Attributes:
        first: predictions of the first run.
        second: predictions of the second run.
        rows: ``[n, 2]`` row numbers in the two, in the order of the first.
        only_first: ids that the second run lacks.
        only_second: ids that the first run lacks.
        changed: ids that stand for different questions or answer keys in the two runs; they are not joined.
    """

    first: Predictions
    second: Predictions
    rows: NDArray[np.int64]
    only_first: list[str]
    only_second: list[str]
    changed: list[str]

    @property
    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores ``[n]`` of the first and of the second run."""
        return self.first.score[self.rows[:, 0]], self.second.score[self.rows[:, 1]]

    @property
    def pieces(self) -> list[Piece]:
        """The second run's pieces of an average, with the first run's scores as the baseline."""
        rows = self.rows[:, 1]
        subset = np.asarray(self.second.column("subset"), np.str_)[rows]
        first, second = self.scores
        return pieces(self.second.name, second, first, self.second.image[rows], subset)


def compare_runs(first: Path, second: Path, names: Iterable[str] = (), num_examples: int = 3) -> dict[str, Any]:
    """Compare two run folders.

    Args:
        first: folder of a run.
        second: folder of another run.
        names: benchmarks to compare; by default all that both answered.
        num_examples: how many examples to list per benchmark, those on which the runs differ most.

    Returns:
        ``runs``; ``benchmarks`` and ``averages``, each entry with ``n``, ``first``, ``second``, ``difference``,
        ``interval`` (percent and percentage points), ``p`` and ``p_holm`` (adjusted within its table); for benchmarks
        also ``unjoined``, ``mcnemar`` (None unless all scores are 0 or 1) and ``examples``; and ``notes`` for the
        reader.

    Raises:
        SpecError: if the runs have no benchmark in common, or lack one of ``names``.
        DataError: if a benchmark has no example in common, or a file cannot be read.
    """
    joined = [join(*pair) for pair in _shared_benchmarks(first, second, list(names))]
    benchmarks = {both.second.name: _benchmark(both, num_examples) for both in joined}
    averages = {
        name: _difference([joined[position] for position in positions])
        for name, positions in members([both.second.group for both in joined]).items()
    }
    for table in (benchmarks, averages):
        for entry, p in zip(table.values(), holm([entry["p"] for entry in table.values()]), strict=True):
            entry["p_holm"] = p
    return {
        "runs": [str(first), str(second)],
        "benchmarks": benchmarks,
        "averages": averages,
        "notes": [note for both in joined for note in _notes(both)],
    }


def join(first: Predictions, second: Predictions) -> Joined:
    """Join two runs' predictions for one benchmark by example id.

    Raises:
        DataError: if they have no example in common.
    """
    row_of_second = {example_id: row for row, example_id in enumerate(second.column("example_id"))}
    questions, other_questions = _questions(first), _questions(second)
    rows, only_first, changed = [], [], []
    for row, example_id in enumerate(first.column("example_id")):
        other = row_of_second.pop(example_id, None)
        if other is None:
            only_first.append(example_id)
        elif questions[row] != other_questions[other]:
            changed.append(example_id)
        else:
            rows.append((row, other))
    if not rows:
        raise DataError(
            f"{first.path} and {second.path} have no example in common; evaluate both runs on the same data and subset"
        )
    return Joined(first, second, np.array(rows), only_first, list(row_of_second), changed)


def _shared_benchmarks(first: Path, second: Path, names: Sequence[str]) -> list[tuple[Predictions, Predictions]]:
    for run in (first, second):
        if not RunFolder(run).predictions.is_dir():
            raise SpecError(f"{run}: no predictions; pass the folder of a run such as runs/quickstart/vit/seed-7")
    of_first, of_second = (
        {predictions.name: predictions for predictions in read_run_predictions(run)} for run in (first, second)
    )
    shared = [name for name in of_first if name in of_second]
    for name in names:
        if name not in shared:
            raise SpecError(f"{first} and {second} did not both answer {name!r}. {nearest(name, shared)}")
    if not shared:
        raise SpecError(f"{first} ({', '.join(of_first)}) and {second} ({', '.join(of_second)}) share no benchmark")
    return [(of_first[name], of_second[name]) for name in names or shared]


def _questions(predictions: Predictions) -> list[tuple[Any, ...]]:
    """Return what each example asks, with its answer key, as far as the file has them."""
    names = [name for name in ("question", "truth") if name in predictions.table.column_names]
    columns = [predictions.column(name) for name in names]
    return list(zip(*columns, strict=True)) if columns else [()] * len(predictions.score)


def _difference(joined: Sequence[Joined]) -> dict[str, Any]:
    """Return the paired difference of the average over some benchmarks, in percentage points."""
    second = [piece for both in joined for piece in both.pieces]
    sample = gather_pieces([second, [replace(piece, score=piece.baseline) for piece in second]])
    interval, p = compare_arms(sample)[0, 1]
    points = interval.times(100)
    second_score, first_score = (100 * float(value) for value in sample.values.mean(axis=1))
    return {
        "n": sum(len(both.rows) for both in joined),
        "first": first_score,
        "second": second_score,
        "difference": points.value,
        "interval": [points.low, points.high],
        "p": p,
    }


def _benchmark(joined: Joined, num_examples: int) -> dict[str, Any]:
    test = mcnemar(*joined.scores)
    unjoined = {"first": joined.only_first, "second": joined.only_second, "asked differently": joined.changed}
    return {
        "title": joined.second.title,
        "group": joined.second.group,
        "metric": joined.second.metric,
        **_difference([joined]),
        "mcnemar": test and asdict(test),
        "unjoined": {name: {"n": len(ids), "ids": ids[:_MAX_IDS]} for name, ids in unjoined.items()},
        "examples": _examples(joined, num_examples),
    }


def _examples(joined: Joined, num_examples: int) -> list[dict[str, Any]]:
    """Return the examples on which the runs differ most; ties are in file order."""
    first, second = joined.scores
    distance = np.abs(second - first)
    order = [index for index in np.argsort(-distance, kind="stable")[:num_examples] if distance[index] > 0]
    shown = [name for name in ("example_id", "image", "question", "truth") if name in joined.first.table.column_names]
    rows = [joined.first.table.slice(int(joined.rows[index, 0]), 1).to_pylist()[0] for index in order]
    others = [joined.second.table.slice(int(joined.rows[index, 1]), 1).to_pylist()[0] for index in order]
    return [
        {name: row[name] for name in shown}
        | {"answers": [_spelled_out(row, joined.first.name), _spelled_out(other, joined.second.name)]}
        | {"scores": [float(first[index]), float(second[index])]}
        for index, row, other in zip(order, rows, others, strict=True)
    ]


def _spelled_out(row: dict[str, Any], benchmark: str) -> str:
    return spelled_out(row.get("answer", ""), benchmark, row.get("details"))


def _notes(joined: Joined) -> list[str]:
    """Say which examples were not joined, and how scoring differs between the runs."""
    name, first, second = joined.second.name, joined.first, joined.second
    unjoined = {
        "only in the first run": joined.only_first,
        "only in the second run": joined.only_second,
        "asked differently in the two runs": joined.changed,
    }
    phrases = [
        f"{len(ids):,} {where} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        for where, ids in unjoined.items()
        if ids
    ]
    notes = [f"{name}: {len(joined.rows):,} examples are compared; {'; '.join(phrases)}"] if phrases else []
    if first.metric != second.metric:
        notes.append(f"{name}: the first run's metric is {first.metric}, the second's {second.metric}")
    if first.mode != second.mode:
        notes.append(
            f"{name}: the first run was asked and scored in {first.mode} mode, the second in {second.mode} mode"
        )
    return notes
