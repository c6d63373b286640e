"""Read a study's folder into one typed object: what the report shows, and nothing that it computes.

A run counts as finished when it has a ``scores.json``. A study is reported at any time: arms that have not
started or not finished are listed with what is missing, and the others are compared without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eyeswap.backbones import catalog
from eyeswap.errors import DataError
from eyeswap.files import read_json, read_json_lines
from eyeswap.results.scores import Predictions, check_paired, pool_seeds, read_run_predictions, summarize
from eyeswap.runs.folder import RunFolder, StudyFolder

GROUP_TITLES = {"vqa": "VQA", "localization": "Localization", "overall": "Overall"}


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


@dataclass(frozen=True)
class BenchmarkScore:
    """The score of one benchmark with what a table needs to know about it."""

    name: str
    title: str
    group: str
    metric: str
    score: Score
    invalid_rate: float


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
    def invalid_boxes(self) -> float | None:
        """Share of localization answers without a valid box, %; None without localization benchmarks."""
        boxes = [one for one in self.benchmarks.values() if one.group == "localization"]
        total = sum(one.score.n for one in boxes)
        return sum(one.invalid_rate * one.score.n for one in boxes) / total if total else None


@dataclass(frozen=True)
class Run:
    """One arm with one seed, as its folder tells it.

    Attributes:
        folder: the run folder.
        spec: content of ``spec.json``.
        train: rows of ``train.jsonl``.
        scores: None while the run is not finished.
        predictions: one entry a benchmark; empty while the run is not finished.
    """

    arm: str
    seed: int
    folder: Path
    spec: dict[str, Any]
    train: list[dict[str, Any]]
    scores: Scores | None
    predictions: list[Predictions]


@dataclass(frozen=True)
class Arm:
    """One arm with all its runs.

    Attributes:
        name: the arm's name in the study.
        runs: finished runs, by seed.
        missing: one phrase for each run that is not finished.
    """

    name: str
    runs: list[Run]
    missing: list[str]

    @property
    def finished(self) -> bool:
        """Whether at least one run has scores."""
        return bool(self.runs)

    @cached_property
    def predictions(self) -> list[Predictions]:
        """Predictions of the arm, scores averaged over its seeds."""
        return pool_seeds([run.predictions for run in self.runs])

    @cached_property
    def scores(self) -> Scores:
        """Scores of the arm, its seeds pooled."""
        if len(self.runs) == 1 and self.runs[0].scores:
            return self.runs[0].scores
        return scores_from_json(summarize(self.predictions))

    @property
    def backbone(self) -> dict[str, Any]:
        """What ``spec.json`` says of the backbone: name, family, parameters, token grid, geometry."""
        about: dict[str, Any] = self.runs[0].spec.get("backbone", {})
        return about

    @cached_property
    def objective(self) -> str:
        """What the backbone was trained for, as the catalog has it; ``other`` for a backbone of one's own."""
        entry = catalog.find(str(self.backbone.get("name")))
        return "other" if entry is None else entry.objective

    @property
    def num_parameters(self) -> int | None:
        """Parameters of the backbone up to its tap."""
        return self.backbone.get("num_parameters")

    @property
    def num_tokens(self) -> int | None:
        """Visual tokens of one image."""
        grid = self.backbone.get("token_grid")
        return int(grid[0]) * int(grid[1]) if grid else None


@dataclass(frozen=True)
class StudyResults:
    """A study as far as it has run.

    Attributes:
        folder: the study's folder.
        study: content of ``study.json``.
        arms: every arm of the study in its order, started or not.
    """

    folder: Path
    study: dict[str, Any]
    arms: list[Arm]

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.study["name"])

    @property
    def question(self) -> str:
        """What the study asks."""
        return str(self.study["question"])

    @property
    def finished_arms(self) -> list[Arm]:
        """Arms with at least one finished run."""
        return [arm for arm in self.arms if arm.finished]

    @property
    def benchmarks(self) -> list[BenchmarkScore]:
        """The benchmarks, as the first finished arm scored them: for titles, groups, sizes and baselines."""
        arms = self.finished_arms
        return list(arms[0].scores.benchmarks.values()) if arms else []

    @property
    def groups(self) -> list[str]:
        """The averages that exist, of ``vqa``, ``localization``, ``overall``."""
        arms = self.finished_arms
        return [group for group in GROUP_TITLES if arms and group in arms[0].scores.averages]

    @property
    def data_root(self) -> Path:
        """Where the ``image`` paths of the predictions start."""
        data = self.study.get("recipe", {}).get("data", {})
        return Path(data["folder"]) if "folder" in data else StudyFolder(self.folder).data


def gather(study_dir: Path) -> StudyResults:
    """Read a study's folder.

    Raises:
        DataError: naming the file that is missing, damaged, or holds other examples than the first arm's.
    """
    path = StudyFolder(study_dir).study
    study = read_json(path)
    for key in ("name", "question", "arms", "seeds"):
        if not isinstance(study, dict) or key not in study:
            raise DataError(f"{path}: no {key}; this is not the folder of a study")
    arms = [_gather_arm(study_dir, name, study["seeds"]) for name in study["arms"]]
    results = StudyResults(study_dir, study, arms)
    _check_comparable(results.finished_arms)
    return results


def scores_from_json(scores: dict[str, Any]) -> Scores:
    """Turn the content of a ``scores.json`` into `Scores`."""
    return Scores(
        benchmarks={
            name: BenchmarkScore(
                name=name,
                title=about["title"],
                group=about["group"],
                metric=about["metric"],
                score=_score(about),
                invalid_rate=about["invalid_rate"],
            )
            for name, about in scores["benchmarks"].items()
        },
        averages={name: _score(about) for name, about in scores["averages"].items()},
    )


def _score(about: dict[str, Any]) -> Score:
    low, high = about["interval"]
    gain_low, gain_high = about["gain"]["interval"]
    return Score(
        n=about["n"],
        value=about["score"],
        low=low,
        high=high,
        baseline_name=about["baseline"]["name"],
        baseline=about["baseline"]["score"],
        gain=about["gain"]["value"],
        gain_low=gain_low,
        gain_high=gain_high,
    )


def _gather_arm(study_dir: Path, name: str, seeds: list[int]) -> Arm:
    runs, missing = [], []
    for seed in seeds:
        files = StudyFolder(study_dir).run(name, seed)
        if not files.is_begun:
            missing.append(f"seed {seed}: not started")
        elif not files.is_scored:
            rows = read_json_lines(files.training_log) if files.training_log.is_file() else []
            missing.append(f"seed {seed}: no scores yet (training step {rows[-1]['step'] if rows else 0})")
        else:
            runs.append(_gather_run(name, seed, files))
    return Arm(name, runs, missing)


def _gather_run(arm: str, seed: int, files: RunFolder) -> Run:
    path = files.scores
    try:
        scores = scores_from_json(read_json(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not in the format of scores.json ({error!r}); evaluate the run again") from None
    predictions = read_run_predictions(files.path)
    if [one.name for one in predictions] != list(scores.benchmarks):
        raise DataError(f"{path}: other benchmarks than predictions/benchmarks.json; evaluate the run again")
    return Run(
        arm=arm,
        seed=seed,
        folder=files.path,
        spec=read_json(files.record),
        train=read_json_lines(files.training_log),
        scores=scores,
        predictions=predictions,
    )


def _check_comparable(arms: list[Arm]) -> None:
    """Check that all finished runs answered the same examples in the same order."""
    runs = [run for arm in arms for run in arm.runs]
    for run in runs[1:]:
        names, expected = ([one.name for one in each.predictions] for each in (run, runs[0]))
        if names != expected:
            raise DataError(f"{run.folder}: benchmarks {', '.join(names)}, expected {', '.join(expected)}")
        for first, other in zip(runs[0].predictions, run.predictions, strict=True):
            check_paired(first, other)
