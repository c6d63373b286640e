"""From a run's predictions to its scores: ``predictions/*.parquet`` in, ``scores.json`` out.

The predictions hold fractions, ``scores.json`` holds percent. Averages over benchmarks weigh each benchmark
by its number of examples, as the paper's "weighted accuracy" does. `summarize` is also what the report uses
to pool the seeds of one arm, so that a table and a run folder can never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError, MissingFileError
from eyeswap.evaluation.predictions import is_unfinished, read_predictions
from eyeswap.files import read_json, write_json
from eyeswap.results.averages import GROUPS, Piece, Weights, average, gain, members, pieces
from eyeswap.runs.folder import RunFolder
from eyeswap.statistics.differences import Interval

NEEDED_COLUMNS = ("example_id", "image", "subset", "score", "baseline_score", "invalid")


@dataclass(frozen=True)
class Predictions:
    """The scored answers of one run to one benchmark; ``n`` examples.

    Attributes:
        path: the parquet file they come from.
        name: the benchmark's short name.
        group: ``vqa`` or ``localization``.
        title: name for tables.
        metric: what a score of 1 means, such as ``IoU >= 0.5``.
        baseline: name of the trivial baseline.
        num_examples: how many were asked; more than are here while the evaluation is unfinished.
        iou_threshold: overlap from which a box is right; None for answers that are no boxes.
        table: the whole file as a ``pyarrow.Table``.
        image: ``[n]`` image paths, what resampling keeps together.
        score: ``[n]`` in 0..1; the mean over seeds where they are pooled.
        baseline_score: ``[n]`` in 0..1, the trivial baseline on the same examples.
        seed_scores: ``[S, n]``, the scores of each seed; None for a single run.
    """

    path: Path
    name: str
    group: str
    title: str
    metric: str
    baseline: str
    num_examples: int
    iou_threshold: float | None
    table: Any
    image: NDArray[np.str_]
    score: NDArray[np.float64]
    baseline_score: NDArray[np.float64]
    seed_scores: NDArray[np.float64] | None = None

    def pieces(self, weights: Weights = "counts") -> list[Piece]:
        """Return the pieces that enter averages, weighted by the examples at hand or by the published ones."""
        score = self.score if self.seed_scores is None else self.seed_scores
        subset = np.asarray(self.column("subset"), np.str_)
        return pieces(self.name, score, self.baseline_score, self.image, subset, weights)

    def column(self, name: str) -> list[Any]:
        """Return one column as a list of Python values.

        Raises:
            DataError: if the file has no such column.
        """
        if name not in self.table.column_names:
            raise DataError(f"{self.path}: no column {name}")
        values: list[Any] = self.table.column(name).to_pylist()
        return values


def read_run_predictions(run_dir: Path) -> list[Predictions]:
    """Read all predictions of a run, in the order of ``predictions/benchmarks.json``.

    Of an unfinished evaluation, what is there is read; a benchmark without any answer is left out.

    Raises:
        DataError: naming file, column or row, when something is missing or out of range.
    """
    index = RunFolder(run_dir).benchmarks
    benchmarks = read_json(index)
    if not isinstance(benchmarks, dict) or not benchmarks:
        raise DataError(f"{index}: expected a mapping of benchmark names to group, title and metric")
    found = []
    for name, about in benchmarks.items():
        try:
            found.append(_read_predictions(run_dir, name, about))
        except MissingFileError:
            if not is_unfinished(run_dir):
                raise
    return found


def score_run(run_dir: Path) -> dict[str, Any]:
    """Return the content of ``scores.json`` for a run: every benchmark and the weighted averages, in percent.

    Of an unfinished evaluation the answers that are there are scored; ``n`` is then less than ``num_examples``.

    Raises:
        DataError: as `read_run_predictions`.
    """
    return summarize(read_run_predictions(run_dir))


def write_scores(run_dir: Path) -> Path:
    """Score a run and write its ``scores.json``; return the path.

    Raises:
        DataError: as `read_run_predictions`.
    """
    path = RunFolder(run_dir).scores
    write_json(path, score_run(run_dir))
    return path


def pool_seeds(runs: Sequence[list[Predictions]]) -> list[Predictions]:
    """Average the scores of several seeds example by example; the other columns are those of the first seed.

    Raises:
        DataError: if the runs answered different benchmarks or examples.
    """
    pooled = []
    for same_benchmark in zip(*runs, strict=True):
        first = same_benchmark[0]
        for other in same_benchmark[1:]:
            check_paired(first, other)
        scores = np.stack([run.score for run in same_benchmark])
        pooled.append(replace(first, score=scores.mean(axis=0), seed_scores=scores))
    return pooled


def check_paired(first: Predictions, other: Predictions) -> None:
    """Check that two files answer the same examples in the same order.

    Raises:
        DataError: naming both files and the first row that differs.
    """
    left, right = first.column("example_id"), other.column("example_id")
    if left != right:
        row = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        where = f"row {row}: {right[row]} against {left[row]}" if row is not None else f"{len(right)} rows"
        raise DataError(
            f"{other.path}: other examples than {first.path} ({where}); evaluate both runs on the same split"
        )


def summarize(predictions: Sequence[Predictions], weights: Weights = "counts") -> dict[str, Any]:
    """Return scores, intervals, baselines and gains of benchmarks and weighted averages, in percent.

    Args:
        predictions: of each benchmark.
        weights: how benchmarks are weighted in averages: by the examples at hand, or by those of the published sets.
    """
    benchmarks = {
        one.name: {
            "group": one.group,
            "title": one.title,
            "metric": one.metric,
            **_scores([one], weights),
            "subsets": _subsets(one),
            "invalid_rate": _percent(np.mean(one.column("invalid"))),
            "num_examples": one.num_examples,
            "errors": _num_errors(one),
            **({"readings": _readings(one)} if one.iou_threshold is not None else {}),
        }
        for one in predictions
    }
    averages = {
        name: _scores([predictions[position] for position in positions], weights)
        for name, positions in members([one.group for one in predictions]).items()
    }
    return {"benchmarks": benchmarks, "averages": averages, "errors": sum(map(_num_errors, predictions))}


def _num_errors(one: Predictions) -> int:
    """Return how many examples could not be asked or scored; they count as wrong."""
    return sum(error is not None for error in one.column("error")) if "error" in one.table.column_names else 0


def _readings(one: Predictions) -> dict[str, float | None]:
    """Return the score, in percent, of each way to read a box: in either frame, and by the lenient reader."""
    scores: dict[str, float | None] = {}
    for name in ("original", "canvas", "lenient"):
        column = f"{name}_iou"
        overlaps = one.column(column) if column in one.table.column_names else []
        known = any(overlap is not None for overlap in overlaps)
        right = [overlap is not None and overlap >= one.iou_threshold for overlap in overlaps]
        scores[name] = _percent(np.mean(right)) if known else None
    return scores


def _scores(those: Sequence[Predictions], weights: Weights) -> dict[str, Any]:
    """Return unit, n, score, interval, trivial baseline and gain over it for some benchmarks together."""
    parts = [part for one in those for part in one.pieces(weights)]
    score, ahead = average(parts), gain(parts)
    names = {one.baseline for one in those}
    return {
        "unit": "%",
        "n": sum(len(one.score) for one in those),
        "score": _percent(score.value),
        "interval": _bounds(score),
        "baseline": {
            "name": names.pop() if len(names) == 1 else "trivial baselines",
            "score": _percent(score.value - ahead.value),
        },
        "gain": {"value": _percent(ahead.value), "interval": _bounds(ahead)},
    }


def _subsets(one: Predictions) -> dict[str, dict[str, Any]]:
    subset = np.asarray(one.column("subset"))
    return {
        str(name): {"n": int(np.sum(subset == name)), "score": _percent(one.score[subset == name].mean())}
        for name in np.unique(subset)
    }


def _read_predictions(run_dir: Path, name: str, about: Any) -> Predictions:
    index, path = RunFolder(run_dir).benchmarks, RunFolder(run_dir).predictions_of(name)
    if not isinstance(about, dict) or any(key not in about for key in ("group", "title", "metric")):
        raise DataError(f"{index}: {name}: expected group, title and metric")
    if about["group"] not in GROUPS:
        raise DataError(f"{index}: {name}: group {about['group']} is not one of {', '.join(GROUPS)}")
    table = read_predictions(run_dir, name)
    missing = [column for column in NEEDED_COLUMNS if column not in table.column_names]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}")
    if table.num_rows == 0:
        raise DataError(f"{path}: no rows; a benchmark needs at least one example")
    ids = table.column("example_id").to_pylist()
    if len(set(ids)) != len(ids):
        raise DataError(f"{path}: an example_id appears twice")
    return Predictions(
        path=path,
        name=name,
        group=about["group"],
        title=about["title"],
        metric=about["metric"],
        baseline=about.get("baseline", "trivial baseline"),
        num_examples=about.get("num_examples", table.num_rows),
        iou_threshold=about.get("iou_threshold"),
        table=table,
        image=np.asarray(table.column("image").to_pylist(), dtype=np.str_),
        score=_fractions(path, table, "score"),
        baseline_score=_fractions(path, table, "baseline_score"),
    )


def _fractions(path: Path, table: Any, column: str) -> NDArray[np.float64]:
    """Return a column of scores after checking that each lies in 0..1."""
    values = np.asarray(table.column(column).to_pylist(), dtype=np.float64)
    good = (values >= 0) & (values <= 1)  # false for NaN too
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(f"{path}: row {row}: {column} {values[row]} is not in 0..1")
    return values


def _percent(fraction: float | np.floating[Any]) -> float:
    return round(100.0 * float(fraction), 4)


def _bounds(interval: Interval) -> list[float]:
    return [_percent(interval.low), _percent(interval.high)]
