"""The layout of study and run folders: every file name and path, and the states they stand for, in one place.

``docs/architecture.md`` describes the contents of the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eyeswap.errors import DataError

SEED_PREFIX = "seed-"
PROFILE_FILE = "profile.csv"


def run_name(arm: str, seed: int) -> str:
    """Return the name of a run, which is also its path in the study's folder: ``arm/seed-n``."""
    return f"{arm}/{SEED_PREFIX}{seed}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, ``<study>/<arm>/seed-<n>``, or of an evaluation, which has the same layout.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """The run's configuration and inputs: `eyeswap.runs.record.RunRecord`."""
        return self.path / "spec.json"

    @property
    def environment(self) -> Path:
        """Software and hardware: `eyeswap.runs.environment.Environment`."""
        return self.path / "environment.json"

    @property
    def training_log(self) -> Path:
        """The training log, one row per step."""
        return self.path / "train.jsonl"

    @property
    def log(self) -> Path:
        """What happened when, in words."""
        return self.path / "run.log"

    @property
    def model(self) -> Path:
        """The trained VLM; present once training has finished."""
        return self.path / "model"

    @property
    def unfinished_model(self) -> Path:
        """The trained VLM while it is being saved."""
        return self.path / "model.unfinished"

    @property
    def model_config(self) -> Path:
        """The configuration of the trained VLM."""
        return self.model / "config.json"

    @property
    def checkpoints(self) -> Path:
        """The state from which an interrupted training resumes."""
        return self.path / "checkpoints"

    @property
    def left_out(self) -> Path:
        """The training records that were skipped."""
        return self.path / "left-out.json"

    @property
    def predictions(self) -> Path:
        """The folder of all predictions."""
        return self.path / "predictions"

    @property
    def benchmarks(self) -> Path:
        """Which benchmarks were asked, and how: `eyeswap.runs.record.AskedBenchmark` by name."""
        return self.predictions / "benchmarks.json"

    @property
    def parts(self) -> Path:
        """The predictions of an evaluation in progress, one file per batch."""
        return self.predictions / "parts"

    @property
    def scores(self) -> Path:
        """The scores; present once every question has been answered."""
        return self.path / "scores.json"

    @property
    def seal(self) -> Path:
        """Size and digest of each file of a finished run, see `eyeswap.runs.seal`."""
        return self.path / "seal.json"

    @property
    def workers(self) -> Path:
        """Which workers hold, or held, the run."""
        return self.path / "workers"

    @property
    def evaluation(self) -> Path:
        """What an evaluation asked and how; only folders of evaluations have it."""
        return self.path / "evaluation.json"

    @property
    def study(self) -> StudyFolder:
        """The folder of the run's study."""
        return StudyFolder(self.path.parents[1])

    @property
    def is_of_a_study(self) -> bool:
        """Whether the folder is named like a study's run."""
        return self.path.name.startswith(SEED_PREFIX)

    @property
    def name(self) -> str:
        """The run's name according to its path, ``arm/seed-n``."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def is_begun(self) -> bool:
        """Whether the run has started: it has a record."""
        return self.record.is_file()

    @property
    def is_trained(self) -> bool:
        """Whether training has finished."""
        return self.model.is_dir()

    @property
    def is_scored(self) -> bool:
        """Whether every question that was asked has been answered and scored."""
        return self.scores.is_file()

    def predictions_of(self, benchmark: str) -> Path:
        """Return the file with a benchmark's predictions, present once they are complete."""
        return self.predictions / f"{benchmark}.parquet"

    def evaluation_folder(self, name: str) -> RunFolder:
        """Return the folder of a separate evaluation of the run's model, outside the study."""
        return RunFolder(self.path / "evaluations" / name)

    def evaluation_folders(self) -> list[RunFolder]:
        """Return the folders of all separate evaluations, by name."""
        return [RunFolder(path.parent) for path in sorted(self.path.glob("evaluations/*/evaluation.json"))]

    def sealed_files(self) -> list[Path]:
        """Return the files that the seal of a finished run covers, in order of their paths."""
        single = [self.record, self.environment, self.training_log, self.scores]
        folders = [*self.predictions.glob("*.*"), *self.model.glob("**/*.*")]
        return sorted(path for path in (*single, *folders) if path.is_file())


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, ``<runs>/<study>``.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def study(self) -> Path:
        """The study as it was last run, with all defaults filled in."""
        return self.path / "study.json"

    @property
    def data(self) -> Path:
        """The embedded data set, if the study uses it."""
        return self.path / "data"

    @property
    def tuning(self) -> Path:
        """What trials of learning rates chose, where the study tunes its arms."""
        return self.path / "tuning.json"

    def data_of(self, key: str) -> Path:
        """An embedded data set that arms of their own data train on."""
        return self.path / f"data-{key}"

    @property
    def tokens(self) -> Path:
        """Cached visual tokens of frozen backbones, unless studies share a cache."""
        return self.path / "tokens"

    @property
    def training_images(self) -> Path:
        """Training images that cannot be used."""
        return self.path / "training-images.json"

    def training_images_of(self, key: str) -> Path:
        """The same of data that arms of their own data train on."""
        return self.path / f"training-images-{key}.json"

    @property
    def prompt_date(self) -> Path:
        """The date in prompts, if the LLM's chat template prints one."""
        return self.path / "prompt-date.json"

    @property
    def looks(self) -> Path:
        """Where in the image the answers of the report's examples come from."""
        return self.path / "looks.json"

    @property
    def imports(self) -> Path:
        """The archives that were imported into the study."""
        return self.path / "imports.json"

    @property
    def profile(self) -> Path:
        """Latency and memory measured by `eyeswap profile`: in the folder itself or in its ``profile/``."""
        inner = self.path / "profile" / PROFILE_FILE
        return inner if inner.is_file() else self.path / PROFILE_FILE

    @property
    def slurm(self) -> Path:
        """The logs of Slurm jobs."""
        return self.path / "slurm"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.path / "report"

    def run(self, arm: str, seed: int) -> RunFolder:
        """Return the folder of an arm's run with the given seed."""
        return RunFolder(self.path / run_name(arm, seed))

    def runs(self) -> Iterator[RunFolder]:
        """Yield every run that has started, by arm and seed."""
        yield from (RunFolder(path.parent) for path in sorted(self.path.glob(f"*/{SEED_PREFIX}*/spec.json")))


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among ``paths``; a study's or an arm's folder stands for all runs below it.

    Raises:
        DataError: if a path holds no run.
    """
    runs: list[Path] = []
    for path in paths:
        below = sorted(record.parent for record in path.glob(f"**/{SEED_PREFIX}*/spec.json"))
        folders = [path] if RunFolder(path).is_begun else below
        if not folders:
            raise DataError(f"{path}: contains no run (a run folder has a spec.json)")
        runs += [folder for folder in folders if folder not in runs]
    return runs
