"""From a run's predictions to its scores: ``predictions/*.parquet`` in, ``scores.json`` out.

The predictions hold fractions, ``scores.json`` holds percent. Averages over benchmarks weigh each benchmark
by its number of examples, as the paper's "weighted accuracy" does. `summarize` is also what the report uses
to pool the seeds of one arm, so that a table and a run folder can never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError, MissingFileError
from eyeswap.evaluation.predictions import is_unfinished, read_predictions
from eyeswap.files import read_json, write_json
from eyeswap.results.averages import Piece, Weights, average, gain, members, pieces
from eyeswap.results.readings import overlaps_of, readings, record_if_any
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.record import AskedBenchmark, read_index
from eyeswap.statistics.crossed import SeedVariance

NEEDED_COLUMNS = ("example_id", "image", "subset", "score", "baseline_score", "invalid")


@dataclass(frozen=True)
class Score:
    """One score in percent with its 95% interval and its gain over the trivial baseline.

    Attributes:
        n: number of examples.
        value: mean score, %.
        low: lower end of the interval, %.
        high: upper end of the interval, %.
        baseline_name: name of the trivial baseline.
        baseline: the baseline's score on the same examples, %.
        gain: score minus baseline, percentage points.
        gain_low: lower end of the gain's paired interval.
        gain_high: upper end of the gain's paired interval.
    """

    n: int
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
        """Return the score as ``scores.json`` has it."""
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
        """Read a score of ``scores.json``."""
        low, high = content["interval"]
        gain_low, gain_high = content["gain"]["interval"]
        return cls(
            n=content["n"],
            value=content["score"],
            low=low,
            high=high,
            baseline_name=content["baseline"]["name"],
            baseline=content["baseline"]["score"],
            gain=content["gain"]["value"],
            gain_low=gain_low,
            gain_high=gain_high,
        )


@dataclass(frozen=True)
class BenchmarkScore:
    """The score of one benchmark with what a table needs to know about it.

    Attributes:
        name: short name.
        title: name for tables.
        group: ``vqa`` or ``localization``.
        metric: what a score of 1 means.
        score: over all examples.
        invalid_rate: answers that could not be read, %.
        subsets: subset to its number of examples and score, %.
        num_examples: examples asked; more than were scored while the evaluation is unfinished.
        errors: examples that could not be asked or scored; they count as wrong.
        box_frame: frame that boxes are scored in; empty for answers that are no boxes.
        readings: of boxes, the score, %, in every frame and by the lenient reader; None for answers that are no boxes.
    """

    name: str
    title: str
    group: str
    metric: str
    score: Score
    invalid_rate: float
    subsets: dict[str, dict[str, Any]]
    num_examples: int
    errors: int
    box_frame: str
    readings: dict[str, float | None] | None

    def as_json(self) -> dict[str, Any]:
        """Return the benchmark as ``scores.json`` has it."""
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
        """Read a benchmark of ``scores.json``; what older versions did not write has its default."""
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
        averages: weighted averages, by ``vqa``, ``localization``, ``overall``; absent groups are left out.
    """

    benchmarks: dict[str, BenchmarkScore]
    averages: dict[str, Score]

    @property
    def errors(self) -> int:
        """Examples that could not be asked or scored."""
        return sum(one.errors for one in self.benchmarks.values())

    @property
    def invalid_boxes(self) -> float | None:
        """Share of localization answers without a valid box, %; None without localization benchmarks."""
        boxes = [one for one in self.benchmarks.values() if one.group == "localization"]
        total = sum(one.score.n for one in boxes)
        return sum(one.invalid_rate * one.score.n for one in boxes) / total if total else None

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``scores.json``."""
        return {
            "benchmarks": {name: one.as_json() for name, one in self.benchmarks.items()},
            "averages": {name: one.as_json() for name, one in self.averages.items()},
            "errors": self.errors,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scores:
        """Read the content of ``scores.json``."""
        return cls(
            {name: BenchmarkScore.from_json(name, about) for name, about in content["benchmarks"].items()},
            {name: Score.from_json(about) for name, about in content["averages"].items()},
        )


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
        mode: how it was asked and scored, ``study`` or ``official``; None in files that do not say.
        box_frame: frame that boxes are scored in; empty for answers that are no boxes.
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
    mode: str | None
    box_frame: str
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


def read_run_predictions(run_dir: Path, asked: Mapping[str, AskedBenchmark] | None = None) -> list[Predictions]:
    """Read the predictions of a run, in the order of ``predictions/benchmarks.json``.

    Of an unfinished evaluation, what is there is read; a benchmark without any answer is left out.

    Args:
        run_dir: the run's folder.
        asked: the benchmarks to read; all that it was asked by default.

    Raises:
        DataError: naming file, column or row, when something is missing or out of range.
    """
    asked = read_index(RunFolder(run_dir).benchmarks) if asked is None else asked
    if not asked:
        raise DataError(f"{RunFolder(run_dir).benchmarks}: names no benchmark; evaluate this run again")
    found = []
    for name, about in asked.items():
        try:
            found.append(_read_predictions(run_dir, name, about))
        except MissingFileError:
            if not is_unfinished(run_dir):
                raise
    return found


def read_scores(path: Path) -> Scores:
    """Read a ``scores.json``.

    Raises:
        DataError: if it is missing or in another format.
    """
    try:
        return Scores.from_json(read_json(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not in the format of scores.json ({error!r}); evaluate the run again") from None


def score_run(run_dir: Path) -> Scores:
    """Score a run: every benchmark that it was asked, and the weighted averages.

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
    write_json(path, score_run(run_dir).as_json())
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


def summarize(
    predictions: Sequence[Predictions],
    weights: Weights = "counts",
    seeds: Mapping[str, SeedVariance] = MappingProxyType({}),
) -> Scores:
    """Return scores, intervals, baselines and gains of benchmarks and weighted averages, in percent.

    Args:
        predictions: of each benchmark.
        weights: how benchmarks are weighted in averages: by the examples at hand, or by those of the published sets.
        seeds: benchmark or average to the variance of its training runs, where more is known of it than these tell.
    """
    benchmarks = {
        one.name: BenchmarkScore(
            name=one.name,
            title=one.title,
            group=one.group,
            metric=one.metric,
            score=_score([one], weights, seeds.get(one.name)),
            invalid_rate=_percent(np.mean(one.column("invalid"))),
            subsets=_subsets(one),
            num_examples=one.num_examples,
            errors=_num_errors(one),
            box_frame=one.box_frame,
            readings=None if one.iou_threshold is None else _readings(one),
        )
        for one in predictions
    }
    averages = {
        name: _score([predictions[position] for position in positions], weights, seeds.get(name))
        for name, positions in members([one.group for one in predictions]).items()
    }
    return Scores(benchmarks, averages)


def _num_errors(one: Predictions) -> int:
    """Return how many examples could not be asked or scored; they count as wrong."""
    return sum(error is not None for error in one.column("error")) if "error" in one.table.column_names else 0


def _readings(one: Predictions) -> dict[str, float | None]:
    """Return the score, in percent, of each way to read a box: in every frame, and by the lenient reader.

    The lenient reader compares in the frame that counts.
    """
    threshold = one.iou_threshold or 0.0
    shares = readings(overlaps_of(one.path.parents[1], one.table), threshold)
    lenient = one.column("lenient_iou") if "lenient_iou" in one.table.column_names else []
    right = [overlap is not None and overlap >= threshold for overlap in lenient]
    known = any(overlap is not None for overlap in lenient)
    shares["lenient"] = float(np.mean(right)) if known else None
    return {name: None if share is None else _percent(share) for name, share in shares.items()}


def _score(those: Sequence[Predictions], weights: Weights, seeds: SeedVariance | None) -> Score:
    """Return the score of some benchmarks together, and its gain over their trivial baselines."""
    parts = [part for one in those for part in one.pieces(weights)]
    score, ahead = average(parts, seeds), gain(parts, seeds)
    names = {one.baseline for one in those}
    return Score(
        n=sum(len(one.score) for one in those),
        value=_percent(score.value),
        low=_percent(score.low),
        high=_percent(score.high),
        baseline_name=names.pop() if len(names) == 1 else "trivial baselines",
        baseline=_percent(score.value - ahead.value),
        gain=_percent(ahead.value),
        gain_low=_percent(ahead.low),
        gain_high=_percent(ahead.high),
    )


def _subsets(one: Predictions) -> dict[str, dict[str, Any]]:
    subset = np.asarray(one.column("subset"))
    return {
        str(name): {"n": int(np.sum(subset == name)), "score": _percent(one.score[subset == name].mean())}
        for name in np.unique(subset)
    }


def _read_predictions(run_dir: Path, name: str, about: AskedBenchmark) -> Predictions:
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
        group=about.group,
        title=about.title,
        metric=about.metric,
        baseline=about.baseline,
        num_examples=table.num_rows if about.num_examples is None else about.num_examples,
        iou_threshold=about.iou_threshold,
        mode=about.mode,
        box_frame=_box_frame(run_dir, about),
        table=table,
        image=np.asarray(table.column("image").to_pylist(), dtype=np.str_),
        score=_fractions(path, table, "score"),
        baseline_score=_fractions(path, table, "baseline_score"),
    )


def _box_frame(run_dir: Path, about: AskedBenchmark) -> str:
    """Return the frame that boxes were scored in; files of earlier versions say it in the run's record alone."""
    if about.iou_threshold is None or about.box_frame is not None:
        return about.box_frame or ""
    record = record_if_any(run_dir)
    return (record and record.test_box_frame) or "original"


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
