"""Where everything of a study and of its runs lies: every file name, path and state, written down once.

``docs/architecture.md`` describes what the files hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eyeswap.errors import DataError

SEED_PREFIX = "seed-"
PROFILE_FILE = "profile.csv"


def run_name(arm: str, seed: int) -> str:
    """Return the name of a run, which is also its place in the study's folder: ``arm/seed-n``."""
    return f"{arm}/{SEED_PREFIX}{seed}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, ``<study>/<arm>/seed-<n>``, or of an evaluation of one, which reads like a run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """What decided the run: `eyeswap.runs.record.RunRecord`."""
        return self.path / "spec.json"

    @property
    def environment(self) -> Path:
        """What it was trained on: versions, machine, threads."""
        return self.path / "environment.json"

    @property
    def training_log(self) -> Path:
        """One row a training step."""
        return self.path / "train.jsonl"

    @property
    def model(self) -> Path:
        """The trained VLM; exists once training has ended."""
        return self.path / "model"

    @property
    def unfinished_model(self) -> Path:
        """The trained VLM while it is being written."""
        return self.path / "model.unfinished"

    @property
    def model_config(self) -> Path:
        """The configuration of the trained VLM."""
        return self.model / "config.json"

    @property
    def checkpoints(self) -> Path:
        """What a training that was interrupted goes on from."""
        return self.path / "checkpoints"

    @property
    def left_out(self) -> Path:
        """The records of the training data that were not trained on."""
        return self.path / "left-out.json"

    @property
    def predictions(self) -> Path:
        """The folder of all answers."""
        return self.path / "predictions"

    @property
    def benchmarks(self) -> Path:
        """What was asked, by benchmark: `eyeswap.runs.record.AskedBenchmark`."""
        return self.predictions / "benchmarks.json"

    @property
    def parts(self) -> Path:
        """The answers of an evaluation that has not ended, a file a batch."""
        return self.predictions / "parts"

    @property
    def scores(self) -> Path:
        """The scores; exist once every question is answered."""
        return self.path / "scores.json"

    @property
    def seal(self) -> Path:
        """Size and digest of each file of a finished run."""
        return self.path / "seal.json"

    @property
    def workers(self) -> Path:
        """Who works, or worked, on the folder."""
        return self.path / "workers"

    @property
    def evaluation(self) -> Path:
        """What an evaluation asked and how; an evaluation's folder alone has it."""
        return self.path / "evaluation.json"

    @property
    def study(self) -> StudyFolder:
        """The folder of the study that a run lies in."""
        return StudyFolder(self.path.parents[1])

    @property
    def is_of_a_study(self) -> bool:
        """Whether the folder lies where a study's run does."""
        return self.path.name.startswith(SEED_PREFIX)

    @property
    def name(self) -> str:
        """The run's name as its place says it, ``arm/seed-n``."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def is_begun(self) -> bool:
        """Whether the run has a record: it trains, or did."""
        return self.record.is_file()

    @property
    def is_trained(self) -> bool:
        """Whether training has ended."""
        return self.model.is_dir()

    @property
    def is_scored(self) -> bool:
        """Whether everything that was asked is answered and scored."""
        return self.scores.is_file()

    def predictions_of(self, benchmark: str) -> Path:
        """Return the file that holds a benchmark's answers once all of them are there."""
        return self.predictions / f"{benchmark}.parquet"

    def evaluation_folder(self, name: str) -> RunFolder:
        """Return where an evaluation of the run's model lies that was made apart from its study."""
        return RunFolder(self.path / "evaluations" / name)

    def evaluation_folders(self) -> list[RunFolder]:
        """Return all evaluations made apart from the study, by name."""
        return [RunFolder(path.parent) for path in sorted(self.path.glob("evaluations/*/evaluation.json"))]

    def sealed_files(self) -> list[Path]:
        """Return the files that make up a finished run, in order of their paths."""
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
        """The study with all its defaults, as it was last run."""
        return self.path / "study.json"

    @property
    def data(self) -> Path:
        """The embedded data set, where the study uses it."""
        return self.path / "data"

    @property
    def tokens(self) -> Path:
        """Visual tokens of frozen backbones, unless studies share them."""
        return self.path / "tokens"

    @property
    def training_images(self) -> Path:
        """Which images of the training data cannot be used."""
        return self.path / "training-images.json"

    @property
    def prompt_date(self) -> Path:
        """The date that prompts print, where the chat template of the LLM prints one."""
        return self.path / "prompt-date.json"

    @property
    def imports(self) -> Path:
        """Which archives were merged into the study."""
        return self.path / "imports.json"

    @property
    def profile(self) -> Path:
        """Latency and memory, as `eyeswap profile` measured them: in the folder itself or in its ``profile/``."""
        inner = self.path / "profile" / PROFILE_FILE
        return inner if inner.is_file() else self.path / PROFILE_FILE

    @property
    def slurm(self) -> Path:
        """What jobs say."""
        return self.path / "slurm"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report"

    def run(self, arm: str, seed: int) -> RunFolder:
        """Return the folder of an arm's run with a seed."""
        return RunFolder(self.path / run_name(arm, seed))

    def runs(self) -> Iterator[RunFolder]:
        """Yield every run that has a record, by arm and seed."""
        yield from (RunFolder(path.parent) for path in sorted(self.path.glob(f"*/{SEED_PREFIX}*/spec.json")))


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among ``paths``; a study's or an arm's folder stands for all runs below it.

    Raises:
        DataError: if a path holds no run.
    """
    runs: list[Path] = []
    for path in paths:
        below = sorted(record.parent for record in path.glob(f"**/{SEED_PREFIX}*/spec.json"))
        found = [path] if RunFolder(path).is_begun else below
        if not found:
            raise DataError(f"{path}: holds no run (a run folder has a spec.json)")
        runs += [run for run in found if run not in runs]
    return runs
