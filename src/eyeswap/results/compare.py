"""Compare any two runs, example by example: examples are joined by their raw ids, differences are paired.

Differences are the second run minus the first. Intervals resample images and p-values flip them (`statistics`); where
every score is 0 or 1, McNemar's exact test is given too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.results.averages import Piece, gather_pieces, members, pieces
from eyeswap.results.scores import Predictions, read_run_predictions
from eyeswap.runs.folder import RunFolder
from eyeswap.statistics.differences import holm, judged_differences, mcnemar

_MOST_IDS = 20  # of unjoined examples listed


@dataclass(frozen=True)
class Joined:
    """The examples of one benchmark that both runs answered.

    Attributes:
        first: predictions of the first run.
        second: predictions of the second run.
        rows: ``[n, 2]`` row numbers in both, in the order of the first.
        only_first: ids that the second run lacks.
        only_second: ids that the first run lacks.
        changed: ids under which the two runs were asked different things; not joined.
    """

    first: Predictions
    second: Predictions
    rows: NDArray[np.int64]
    only_first: list[str]
    only_second: list[str]
    changed: list[str]

    @property
    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``[n]`` scores of the first and of the second run."""
        return self.first.score[self.rows[:, 0]], self.second.score[self.rows[:, 1]]

    @property
    def pieces(self) -> list[Piece]:
        """The pieces of the second run, with the first run's scores for a baseline."""
        one, rows = self.second, self.rows[:, 1]
        before, after = self.scores
        subset = np.asarray(one.column("subset"), np.str_)[rows]
        return pieces(one.name, after, before, one.image[rows], subset)


def compare_runs(first: Path, second: Path, names: Iterable[str] = (), num_examples: int = 3) -> dict[str, Any]:
    """Compare two run folders.

    Args:
        first: a run's folder.
        second: another run's folder.
        names: benchmarks to compare; all that both answered if empty.
        num_examples: how many examples on which the runs disagree to list for each benchmark.

    Returns:
        ``runs``; ``benchmarks`` and ``averages``, each entry with ``n``, ``first``, ``second``, ``difference``,
        ``interval`` (percent and points), ``p`` and ``p_holm`` (adjusted within its table); benchmarks also with
        ``unjoined``, ``mcnemar`` (None if scores are not all 0 or 1) and ``examples``; ``notes``, in words.

    Raises:
        SpecError: if the runs share no benchmark, or not one that is named.
        DataError: if a benchmark has no example in common, or a file cannot be read.
    """
    joined = [join(*pair) for pair in _shared(first, second, list(names))]
    benchmarks = {one.second.name: _benchmark(one, num_examples) for one in joined}
    averages = {
        name: _difference([piece for position in positions for piece in joined[position].pieces])
        for name, positions in members([one.second.group for one in joined]).items()
    }
    for table in (benchmarks, averages):
        for entry, p in zip(table.values(), holm([entry["p"] for entry in table.values()]), strict=True):
            entry["p_holm"] = p
    return {
        "runs": [str(first), str(second)],
        "benchmarks": benchmarks,
        "averages": averages,
        "notes": [note for one in joined for note in _notes(one)],
    }


def join(first: Predictions, second: Predictions) -> Joined:
    """Join two runs' predictions of one benchmark by example id.

    Raises:
        DataError: if they have no example in common.
    """
    places = {example_id: row for row, example_id in enumerate(second.column("example_id"))}
    asked = [_asked(one) for one in (first, second)]
    rows, only_first, changed = [], [], []
    for row, example_id in enumerate(first.column("example_id")):
        other = places.pop(example_id, None)
        if other is None:
            only_first.append(example_id)
        elif asked[0][row] != asked[1][other]:
            changed.append(example_id)
        else:
            rows.append((row, other))
    if not rows:
        raise DataError(
            f"{first.path} and {second.path} have no example in common; evaluate both runs on the same data and subset"
        )
    return Joined(first, second, np.array(rows), only_first, list(places), changed)


def _shared(first: Path, second: Path, names: Sequence[str]) -> list[tuple[Predictions, Predictions]]:
    for run in (first, second):
        if not RunFolder(run).predictions.is_dir():
            raise SpecError(f"{run}: no predictions here; name a run folder such as runs/quickstart/vit/seed-7")
    before, after = ({one.name: one for one in read_run_predictions(run)} for run in (first, second))
    both = [name for name in before if name in after]
    for name in names:
        if name not in both:
            raise SpecError(f"{first} and {second} did not both answer {name!r}. {nearest(name, both)}")
    if not both:
        raise SpecError(f"{first} ({', '.join(before)}) and {second} ({', '.join(after)}) share no benchmark")
    return [(before[name], after[name]) for name in names or both]


def _asked(one: Predictions) -> list[tuple[Any, ...]]:
    columns = [one.column(name) for name in ("question", "truth") if name in one.table.column_names]
    return list(zip(*columns, strict=True)) if columns else [()] * len(one.score)


def _difference(after: Sequence[Piece]) -> dict[str, Any]:
    before = [replace(part, score=part.baseline) for part in after]
    sample = gather_pieces([after, before])
    ahead, p = judged_differences(sample)[0, 1]
    second, first = (100 * float(value) for value in sample.values.mean(axis=1))
    return {
        "n": sum(len(part.image) for part in after),
        "first": first,
        "second": second,
        "difference": 100 * ahead.value,
        "interval": [100 * ahead.low, 100 * ahead.high],
        "p": p,
    }


def _benchmark(one: Joined, num_examples: int) -> dict[str, Any]:
    before, after = one.scores
    is_binary = bool(np.isin(np.concatenate([before, after]), (0.0, 1.0)).all())
    only_first, only_second, p = mcnemar(before == 1, after == 1)
    unjoined = {"first": one.only_first, "second": one.only_second, "asked differently": one.changed}
    return {
        "title": one.second.title,
        "group": one.second.group,
        "metric": one.second.metric,
        **_difference(one.pieces),
        "mcnemar": {"only_first": only_first, "only_second": only_second, "p": p} if is_binary else None,
        "unjoined": {name: {"n": len(ids), "ids": ids[:_MOST_IDS]} for name, ids in unjoined.items()},
        "examples": _examples(one, num_examples),
    }


def _examples(one: Joined, most: int) -> list[dict[str, Any]]:
    """Return the examples on which the runs differ most; equals in file order."""
    before, after = one.scores
    distance = np.abs(after - before)
    order = [index for index in np.argsort(-distance, kind="stable")[:most] if distance[index] > 0]
    shown = [name for name in ("example_id", "image", "question", "truth") if name in one.first.table.column_names]
    rows = [one.first.table.slice(int(one.rows[index, 0]), 1).to_pylist()[0] for index in order]
    others = [one.second.table.slice(int(one.rows[index, 1]), 1).to_pylist()[0] for index in order]
    return [
        {name: row[name] for name in shown}
        | {"answers": [row.get("answer", ""), other.get("answer", "")]}
        | {"scores": [float(before[index]), float(after[index])]}
        for index, row, other in zip(order, rows, others, strict=True)
    ]


def _notes(one: Joined) -> list[str]:
    """Say in words what was not joined, and what differs in how the two were scored."""
    joined, name = len(one.rows), one.second.name
    parts: Mapping[str, list[str]] = {
        "only in the first run": one.only_first,
        "only in the second run": one.only_second,
        "asked differently in the two runs": one.changed,
    }
    told = [
        f"{len(ids):,} {where} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        for where, ids in parts.items()
        if ids
    ]
    notes = [f"{name}: {joined:,} examples are compared; {'; '.join(told)}"] if told else []
    if one.first.metric != one.second.metric:
        notes.append(f"{name}: the first run's metric is {one.first.metric}, the second's {one.second.metric}")
    if one.first.mode != one.second.mode:
        notes.append(
            f"{name}: the first run was asked and scored in mode {one.first.mode}, the second in mode {one.second.mode}"
        )
    return notes
