"""A study read from its folder: the arms and their runs, before any analysis.

A run counts as finished once it has scores for every benchmark of the study. A study can be reported at any time: runs
that have not started or finished are listed with what is missing, and the others are compared without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eyeswap.errors import DataError
from eyeswap.files import read_json
from eyeswap.results.published import official_entry
from eyeswap.results.run import Run
from eyeswap.results.scores import BenchmarkScore, Predictions, Score, Scores, check_paired, pool_seeds, summarize
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.privacy import without_paths
from eyeswap.runs.record import BackboneRecord, StudyRecord
from eyeswap.runs.recorded import read_record
from eyeswap.statistics.crossed import SeedVariance

GROUP_TITLES = {"vqa": "VQA", "localization": "Localization", "overall": "Overall"}


@dataclass(frozen=True)
class Arm:
    """One arm with all its runs.

    Attributes:
        name: the arm's name in the study.
        runs: finished runs, by seed.
        missing: one phrase for each unfinished run.
        seed_variances: average or benchmark to the variance between training runs, if known from more than this arm.
    """

    name: str
    runs: list[Run]
    missing: list[str]
    seed_variances: Mapping[str, SeedVariance] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether at least one run is finished."""
        return bool(self.runs)

    @cached_property
    def predictions(self) -> list[Predictions]:
        """Predictions of the arm, scores averaged over its seeds."""
        return pool_seeds([run.predictions for run in self.runs])

    @cached_property
    def scores(self) -> Scores:
        """Scores of the arm, its seeds pooled."""
        if len(self.runs) == 1 and not self.seed_variances:
            return self.runs[0].scores
        return summarize(self.predictions, seeds=self.seed_variances)

    @property
    def backbone(self) -> BackboneRecord:
        """What its first run recorded of the backbone; an own encoder's file without its folder."""
        recorded = self.runs[0].record.backbone
        return recorded.model_copy(update={"name": without_paths(recorded.name)})

    @cached_property
    def objective(self) -> str:
        """The backbone's pretraining objective; ``other`` for backbones and weights that the catalog does not have."""
        entry = official_entry(self.runs[0].record)
        return "other" if entry is None else entry.objective

    @property
    def num_parameters(self) -> int | None:
        """Number of parameters of the backbone up to its tap."""
        return self.backbone.num_parameters

    @property
    def num_tokens(self) -> int | None:
        """Number of visual tokens per image that the LLM sees."""
        return self.runs[0].record.num_visual_tokens


@dataclass(frozen=True)
class StudyResults:
    """A study, finished or not.

    Attributes:
        folder: the study's folder.
        study: content of ``study.json``.
        arms: every arm of the study in order, started or not.
    """

    folder: Path
    study: dict[str, Any]
    arms: list[Arm]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["name"])

    @property
    def question(self) -> str:
        """The research question of the study."""
        return str(self.study["question"])

    @property
    def is_miniature(self) -> bool:
        """Whether the data are drawn by eyeswap itself, for small models."""
        return bool(self.study.get("recipe", {}).get("data", {}).get("name") == "digits")

    @property
    def finished_arms(self) -> list[Arm]:
        """Arms with at least one finished run."""
        return [arm for arm in self.arms if arm.finished]

    @property
    def benchmarks(self) -> list[BenchmarkScore]:
        """The benchmarks as scored by the first finished arm, for titles, groups, sizes and baselines."""
        arms = self.finished_arms
        return list(arms[0].scores.benchmarks.values()) if arms else []

    @property
    def groups(self) -> list[str]:
        """The averages that exist: some of ``vqa``, ``localization``, ``overall``."""
        arms = self.finished_arms
        return [group for group in GROUP_TITLES if arms and group in arms[0].scores.averages]

    @property
    def data_root(self) -> Path:
        """The folder that ``image`` paths of predictions are relative to."""
        data = self.study.get("recipe", {}).get("data", {})
        return Path(data["folder"]) if "folder" in data else StudyFolder(self.folder).data


def gather(study_dir: Path) -> StudyResults:
    """Read a study's folder.

    Raises:
        DataError: if a file is missing or damaged, or has different examples from the first arm's; it names the file.
    """
    path = StudyFolder(study_dir).study
    study = read_json(path)
    for key in ("name", "question", "arms", "seeds"):
        if not isinstance(study, dict) or key not in study:
            raise DataError(f"{path}: no {key}; this is not a study's folder")
    benchmarks = read_record(path, StudyRecord).benchmark_names
    arms = [_gather_arm(study_dir, name, study["seeds"], benchmarks) for name in study["arms"]]
    results = StudyResults(study_dir, study, arms)
    _check_comparable(results.finished_arms)
    return results


def _gather_arm(study_dir: Path, name: str, seeds: Iterable[int], benchmarks: Sequence[str] | None) -> Arm:
    runs, missing = [], []
    for seed in seeds:
        files = StudyFolder(study_dir).run(name, seed)
        run = Run(files.path, benchmarks)
        if not files.is_begun:
            missing.append(f"seed {seed}: not started")
        elif not files.is_scored:
            step = run.training_rows[-1]["step"] if run.training_rows else 0
            missing.append(f"seed {seed}: no scores yet (training step {step})")
        elif unasked := [benchmark for benchmark in benchmarks or () if benchmark not in run.stored_scores.benchmarks]:
            missing.append(f"seed {seed}: not asked yet: {', '.join(unasked)}")
        else:
            runs.append(run)
    return Arm(name, runs, missing)


def _check_comparable(arms: list[Arm]) -> None:
    """Check that all finished runs answered the same examples in the same order."""
    runs = [run for arm in arms for run in arm.runs]
    for run in runs:
        names, expected = ([benchmark.name for benchmark in each.predictions] for each in (run, runs[0]))
        if names != expected:
            raise DataError(f"{run.folder}: benchmarks {', '.join(names)}, expected {', '.join(expected)}")
        for first, other in zip(runs[0].predictions, run.predictions, strict=True):
            check_paired(first, other)


RECORD_KEYS = (
    *("study", "arm", "seed", "benchmark", "group", "metric", "box_frame", "unit", "n"),
    *("score", "low", "high", "baseline", "gain", "gain_low", "gain_high"),
)


def score_records(results: StudyResults) -> list[dict[str, Any]]:
    """Return one record with `RECORD_KEYS` per run and benchmark or weighted average; scores in percent."""
    return [record for arm in results.finished_arms for run in arm.runs for record in _records(results.name, run)]


def _records(study: str, run: Run) -> list[dict[str, Any]]:
    scores = run.scores
    head = {"study": study, "arm": run.arm, "seed": run.seed, "unit": "%"}
    rows = [
        {
            **head,
            "benchmark": entry.name,
            "group": entry.group,
            "metric": entry.metric,
            "box_frame": entry.box_frame,
            **_score_record(entry.score),
        }
        for entry in scores.benchmarks.values()
    ]
    rows += [
        {
            **head,
            "benchmark": "average",
            "group": group,
            "metric": "weighted by n",
            "box_frame": _shared_frame(scores, group),
            **_score_record(score),
        }
        for group, score in scores.averages.items()
    ]
    return [{key: row[key] for key in RECORD_KEYS} for row in rows]


def _shared_frame(scores: Scores, group: str) -> str:
    """Return the box frame of an average's benchmarks; empty for VQA, and all names if they differ."""
    frames = {entry.box_frame for entry in scores.benchmarks.values() if group in (entry.group, "overall")}
    return " ".join(sorted(frames - {""}))


def _score_record(score: Score) -> dict[str, Any]:
    return {
        "n": score.n,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "baseline": score.baseline,
        "gain": score.gain,
        "gain_low": score.gain_low,
        "gain_high": score.gain_high,
    }
