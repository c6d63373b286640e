"""Scores of a run from its predictions: ``predictions/*.parquet`` in, ``scores.json`` out.

Predictions hold fractions, ``scores.json`` holds percent. Averages weight each benchmark by its number of examples,
like the paper's "weighted accuracy". The report uses `summarize` too, with the seeds of an arm pooled, so that its
tables and the run folders cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from eyeswap.errors import DataError, MissingFileError
from eyeswap.evaluation.predictions import is_unfinished, read_predictions
from eyeswap.files import read_json, write_json
from eyeswap.results.averages import Piece, Weights, average, gain, members, pieces
from eyeswap.results.readings import overlaps_of, readings, record_if_any
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.record import AskedBenchmark, read_index
from eyeswap.runs.recorded import first_problem
from eyeswap.statistics.crossed import SeedVariance

NEEDED_COLUMNS = ("example_id", "image", "subset", "score", "baseline_score", "invalid")


Count = Annotated[int, Field(ge=0, le=10**12)]  # of examples; a larger one would not fit a float


@dataclass(frozen=True)
class Score:
    """A score in percent with its 95% interval and its gain over the trivial baseline.

    Attributes:
        n: number of examples.
        value: mean score, %.
        low: lower end of the interval, %.
        high: upper end of the interval, %.
        baseline_name: name of the trivial baseline.
        baseline: the baseline's score on the same examples, %.
        gain: score minus baseline, percentage points.
        gain_low: lower end of the interval of the (paired) gain.
        gain_high: upper end of the interval of the gain.
    """

    n: Count
    value: float
    low: float
    high: float
    baseline_name: str
    baseline: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def beats_baseline(self) -> bool:
        """Whether the whole interval of the gain lies above zero."""
        return self.gain_low > 0

    def as_json(self) -> dict[str, Any]:
        """Return the score in the format of ``scores.json``."""
        return {
            "unit": "%",
            "n": self.n,
            "score": self.value,
            "interval": [self.low, self.high],
            "baseline": {"name": self.baseline_name, "score": self.baseline},
            "gain": {"value": self.gain, "interval": [self.gain_low, self.gain_high]},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Score:
        """Return a score of ``scores.json``."""
        low, high = map(float, content["interval"])
        gain_low, gain_high = map(float, content["gain"]["interval"])
        return cls(
            n=content["n"],
            value=float(content["score"]),
            low=low,
            high=high,
            baseline_name=content["baseline"]["name"],
            baseline=float(content["baseline"]["score"]),
            gain=float(content["gain"]["value"]),
            gain_low=gain_low,
            gain_high=gain_high,
        )


@dataclass(frozen=True)
class BenchmarkScore:
    """The score of one benchmark, and what tables say about it.

    Attributes:
        name: short name.
        title: name for tables.
        group: ``vqa`` or ``localization``.
        metric: what a score of 1 means.
        score: over all examples.
        invalid_rate: share of answers that could not be parsed, %.
        subsets: number of examples and score (%) of each subset.
        num_examples: number of examples asked; larger than the number scored while the evaluation is unfinished.
        errors: number of examples that could not be asked or scored; they count as wrong.
        box_frame: frame that boxes are scored in; empty if answers are not boxes.
        readings: the score (%) of boxes in every frame and with the lenient parser; None if answers are not boxes.
    """

    name: str
    title: str
    group: str
    metric: str
    score: Score
    invalid_rate: float
    subsets: dict[str, dict[str, Count | float]]
    num_examples: Count
    errors: Count
    box_frame: str
    readings: dict[str, float | None] | None

    def as_json(self) -> dict[str, Any]:
        """Return the benchmark in the format of ``scores.json``."""
        return {
            "group": self.group,
            "title": self.title,
            "metric": self.metric,
            **self.score.as_json(),
            "subsets": self.subsets,
            "invalid_rate": self.invalid_rate,
            "num_examples": self.num_examples,
            "errors": self.errors,
            **({} if self.readings is None else {"box_frame": self.box_frame, "readings": self.readings}),
        }

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> BenchmarkScore:
        """Return a benchmark of ``scores.json``; fields that older versions did not write have defaults."""
        return cls(
            name=name,
            title=content["title"],
            group=content["group"],
            metric=content["metric"],
            score=Score.from_json(content),
            invalid_rate=content["invalid_rate"],
            subsets=content.get("subsets", {}),
            num_examples=content.get("num_examples", content["n"]),
            errors=content.get("errors", 0),
            box_frame=content.get("box_frame", ""),
            readings=content.get("readings"),
        )


@dataclass(frozen=True)
class Scores:
    """All scores of one run, or of one arm with its seeds pooled.

    Attributes:
        benchmarks: by short name, in the order of the study.
        averages: weighted averages, by ``vqa``, ``localization``, ``overall``; without groups that have no benchmark.
    """

    benchmarks: dict[str, BenchmarkScore]
    averages: dict[str, Score]

    @property
    def errors(self) -> int:
        """Number of examples that could not be asked or scored."""
        return sum(benchmark.errors for benchmark in self.benchmarks.values())

    @property
    def invalid_boxes(self) -> float | None:
        """Share of localization answers without a valid box, %; None without localization benchmarks."""
        boxes = [benchmark for benchmark in self.benchmarks.values() if benchmark.group == "localization"]
        total = sum(benchmark.score.n for benchmark in boxes)
        return sum(benchmark.invalid_rate * benchmark.score.n for benchmark in boxes) / total if total else None

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``scores.json``."""
        return {
            "benchmarks": {name: benchmark.as_json() for name, benchmark in self.benchmarks.items()},
            "averages": {name: average.as_json() for name, average in self.averages.items()},
            "errors": self.errors,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scores:
        """Return the scores of a ``scores.json``."""
        return cls(
            {name: BenchmarkScore.from_json(name, entry) for name, entry in content["benchmarks"].items()},
            {name: Score.from_json(entry) for name, entry in content["averages"].items()},
        )


_SCORES = TypeAdapter(Scores)


@dataclass(frozen=True)
class Predictions:
    """The scored predictions of one run for one benchmark with ``n`` examples.

    Attributes:
        path: the parquet file.
        name: the benchmark's short name.
        group: ``vqa`` or ``localization``.
        title: name for tables.
        metric: what a score of 1 means, such as ``IoU >= 0.5``.
        baseline: name of the trivial baseline.
        num_examples: number of examples asked; larger than ``n`` while the evaluation is unfinished.
        iou_threshold: smallest IoU of a correct box; None if answers are not boxes.
        mode: how it was asked and scored, ``study`` or ``official``; None if the file does not say.
        box_frame: frame that boxes are scored in; empty if answers are not boxes.
        table: the file as a ``pyarrow.Table``.
        image: ``[n]`` image paths, the units of resampling.
        score: ``[n]`` in 0..1; the mean over seeds where they are pooled.
        baseline_score: ``[n]`` in 0..1, the trivial baseline on the same examples.
        seed_scores: ``[S, n]`` scores of each seed; None for a single run.
    """

    path: Path
    name: str
    group: str
    title: str
    metric: str
    baseline: str
    num_examples: int
    iou_threshold: float | None
    mode: str | None
    box_frame: str
    table: Any
    image: NDArray[np.str_]
    score: NDArray[np.float64]
    baseline_score: NDArray[np.float64]
    seed_scores: NDArray[np.float64] | None = None

    def pieces(self, weights: Weights = "counts") -> list[Piece]:
        """Return the pieces that enter averages, weighted by the examples in the file or by the published counts."""
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


def read_run_predictions(run_dir: Path, asked: Mapping[str, AskedBenchmark] | None = None) -> list[Predictions]:
    """Read the predictions of a run, in the order of ``predictions/benchmarks.json``.

    If the evaluation is unfinished, the available predictions are read; benchmarks without any are left out.

    Args:
        run_dir: the run's folder.
        asked: the benchmarks to read; by default all that the run was asked.

    Raises:
        DataError: if something is missing or out of range; the message names file, column or row.
    """
    asked = read_index(RunFolder(run_dir).benchmarks) if asked is None else asked
    if not asked:
        raise DataError(f"{RunFolder(run_dir).benchmarks}: lists no benchmark; evaluate this run again")
    predictions = []
    for name, benchmark in asked.items():
        try:
            predictions.append(_read_predictions(run_dir, name, benchmark))
        except MissingFileError:
            if not is_unfinished(run_dir):
                raise
    return predictions


def read_scores(path: Path) -> Scores:
    """Read a ``scores.json``.

    Raises:
        DataError: if it is missing or in another format.
    """
    try:
        return _SCORES.validate_python(asdict(Scores.from_json(read_json(path))))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else repr(error)
        raise DataError(f"{path}: not in the format of scores.json ({reason}); evaluate the run again") from None


def score_run(run_dir: Path) -> Scores:
    """Score a run: every benchmark that it was asked, and the weighted averages.

    If the evaluation is unfinished, the available predictions are scored; ``n`` is then less than ``num_examples``.

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
    write_json(path, score_run(run_dir).as_json())
    return path


def pool_seeds(runs: Sequence[list[Predictions]]) -> list[Predictions]:
    """Average the scores of several seeds example by example; all other columns are from the first seed.

    Raises:
        DataError: if the runs answered different benchmarks or examples.
    """
    pooled = []
    for same_benchmark in zip(*runs, strict=True):
        first = same_benchmark[0]
        for other in same_benchmark[1:]:
            check_paired(first, other)
        scores = np.stack([predictions.score for predictions in same_benchmark])
        pooled.append(replace(first, score=scores.mean(axis=0), seed_scores=scores))
    return pooled


def check_paired(first: Predictions, other: Predictions) -> None:
    """Check that two files have predictions for the same examples in the same order.

    Raises:
        DataError: if they differ; the message names both files and the first row that differs.
    """
    left, right = first.column("example_id"), other.column("example_id")
    if left != right:
        row = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        where = f"row {row}: {right[row]} against {left[row]}" if row is not None else f"{len(right)} rows"
        raise DataError(
            f"{other.path}: different examples from {first.path} ({where}); evaluate both runs on the same split"
        )


def summarize(
    predictions: Sequence[Predictions],
    weights: Weights = "counts",
    seeds: Mapping[str, SeedVariance] = MappingProxyType({}),
) -> Scores:
    """Return scores, intervals, baselines and gains of benchmarks and weighted averages, in percent.

    Args:
        predictions: the predictions for each benchmark.
        weights: weight benchmarks in averages by the examples given, or by those of the published sets.
        seeds: benchmark or average to the variance between training runs, where it is known from another source.
    """
    benchmarks = {
        benchmark.name: BenchmarkScore(
            name=benchmark.name,
            title=benchmark.title,
            group=benchmark.group,
            metric=benchmark.metric,
            score=_score([benchmark], weights, seeds.get(benchmark.name)),
            invalid_rate=_percent(np.mean(benchmark.column("invalid"))),
            subsets=_subsets(benchmark),
            num_examples=benchmark.num_examples,
            errors=_num_errors(benchmark),
            box_frame=benchmark.box_frame,
            readings=None if benchmark.iou_threshold is None else _readings(benchmark),
        )
        for benchmark in predictions
    }
    averages = {
        name: _score([predictions[position] for position in positions], weights, seeds.get(name))
        for name, positions in members([benchmark.group for benchmark in predictions]).items()
    }
    return Scores(benchmarks, averages)


def _num_errors(predictions: Predictions) -> int:
    has_errors = "error" in predictions.table.column_names
    return sum(error is not None for error in predictions.column("error")) if has_errors else 0


def _readings(predictions: Predictions) -> dict[str, float | None]:
    """Return the score of boxes, in percent, in every frame, and with the lenient parser in the frame that counts."""
    threshold = predictions.iou_threshold or 0.0
    shares = readings(overlaps_of(predictions.path.parents[1], predictions.table), threshold)
    lenient = predictions.column("lenient_iou") if "lenient_iou" in predictions.table.column_names else []
    correct = [overlap is not None and overlap >= threshold for overlap in lenient]
    is_known = any(overlap is not None for overlap in lenient)
    shares["lenient"] = float(np.mean(correct)) if is_known else None
    return {name: None if share is None else _percent(share) for name, share in shares.items()}


def _score(benchmarks: Sequence[Predictions], weights: Weights, seeds: SeedVariance | None) -> Score:
    """Return the weighted average over some benchmarks, and its gain over their trivial baselines."""
    parts = [part for benchmark in benchmarks for part in benchmark.pieces(weights)]
    score, over_baseline = average(parts, seeds), gain(parts, seeds)
    baseline_names = {benchmark.baseline for benchmark in benchmarks}
    return Score(
        n=sum(len(benchmark.score) for benchmark in benchmarks),
        value=_percent(score.value),
        low=_percent(score.low),
        high=_percent(score.high),
        baseline_name=baseline_names.pop() if len(baseline_names) == 1 else "trivial baselines",
        baseline=_percent(score.value - over_baseline.value),
        gain=_percent(over_baseline.value),
        gain_low=_percent(over_baseline.low),
        gain_high=_percent(over_baseline.high),
    )


def _subsets(predictions: Predictions) -> dict[str, dict[str, int | float]]:
    subset = np.asarray(predictions.column("subset"))
    return {
        str(name): {"n": int(np.sum(subset == name)), "score": _percent(predictions.score[subset == name].mean())}
        for name in np.unique(subset)
    }


def _read_predictions(run_dir: Path, name: str, asked: AskedBenchmark) -> Predictions:
    path = RunFolder(run_dir).predictions_of(name)
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
        group=asked.group,
        title=asked.title,
        metric=asked.metric,
        baseline=asked.baseline,
        num_examples=table.num_rows if asked.num_examples is None else asked.num_examples,
        iou_threshold=asked.iou_threshold,
        mode=asked.mode,
        box_frame=_box_frame(run_dir, asked),
        table=table,
        image=np.asarray(table.column("image").to_pylist(), dtype=np.str_),
        score=_fractions(path, table, "score"),
        baseline_score=_fractions(path, table, "baseline_score"),
    )


def _box_frame(run_dir: Path, asked: AskedBenchmark) -> str:
    """Return the frame that boxes were scored in; older versions recorded it in the run's record only."""
    if asked.iou_threshold is None or asked.box_frame is not None:
        return asked.box_frame or ""
    record = record_if_any(run_dir)
    return (record and record.test_box_frame) or "original"


def _fractions(path: Path, table: Any, column: str) -> NDArray[np.float64]:
    """Return a column of scores after checking that each lies in 0..1."""
    values = np.asarray(table.column(column).to_pylist(), dtype=np.float64)
    in_range = (values >= 0) & (values <= 1)  # false for NaN too
    if not in_range.all():
        row = int(np.argmin(in_range))
        raise DataError(f"{path}: row {row}: {column} {values[row]} is not in 0..1")
    return values


def _percent(fraction: float | np.floating[Any]) -> float:
    return round(100.0 * float(fraction), 4)
