"""Run a study: prepare the data, then for every run visual tokens, training, evaluation and scores.

Every stage reads and writes files. Its output appears under its final name only when it is complete, so an interrupted
study resumes from the last finished stage, and within training from the last checkpoint. Under torchrun all processes
work on each run together.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.connector_name import ConnectorName
from eyeswap.console import open_console
from eyeswap.errors import RunError, SpecError
from eyeswap.files import read_json, write_json
from eyeswap.planning.plan import PlannedRun, plan_runs, refuse, refuse_changed
from eyeswap.planning.spec import Study
from eyeswap.planning.tuning import TrialStudy
from eyeswap.processes import Ranks, join
from eyeswap.progress import Progress, progress
from eyeswap.results.scores import write_scores
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.log import run_log
from eyeswap.runs.seal import changed_files, write_seal
from eyeswap.study.backbones import Backbones, check_arms
from eyeswap.study.evaluate import Settings, ask_and_score, load_model
from eyeswap.study.launch import alone_in, work_through
from eyeswap.study.run_record import record_questions, refuse_changed_images
from eyeswap.study.study_data import StudyData, cached_tokens, prepare_data
from eyeswap.study.train_run import train_run
from eyeswap.study.tune import tuned
from eyeswap.tokens.cache import token_folder
from eyeswap.vlm.frozen import load_frozen


def run_study(study: Study, study_file: Path, runs_dir: Path, console: Console) -> Path:
    """Do every run of a study that is not done and that no other worker holds, and wait for the others.

    Runs that are trained but lack benchmarks of the study are only asked these; nothing is trained again.

    Args:
        study: the study.
        study_file: the file it was read from, for messages.
        runs_dir: folder of all studies' runs.
        console: where progress is shown.

    Returns:
        The study's folder; the caller writes the report.

    Raises:
        SpecError: if a run folder holds a different model, an arm's visual tokens leave no position for text, or the
            study that provides the seed standard deviation does not exist.
        DataError: if the data are missing or damaged.
        RunError: if runs failed, after all others are done.
    """
    study = tuned(study, study_file, runs_dir, console, run_study)
    folder = StudyFolder(runs_dir / study.name)
    planned = plan_runs(study, runs_dir)
    refuse_changed(planned, study_file)
    if isinstance(study.seed_sd, str) and not StudyFolder(Path(study.seed_sd)).study.is_file():
        raise SpecError(
            f"{study_file}: seed_sd: {study.seed_sd} contains no study; run that study first, or give numbers"
        )
    unfinished = [run for run in planned if run.state() != "done"]
    if not unfinished:
        _write_study(study, folder)
        console.print(f"all {len(planned)} runs of {study.name} are done", highlight=False)
        return folder.path
    needs_training = any(not run.files.is_trained for run in unfinished)
    check_arms(study, dict.fromkeys(run.arm for run in unfinished), for_training=needs_training)
    with join() as ranks, progress(console if ranks.is_first else open_console(quiet=True)) as board:
        with ranks.first_alone(), alone_in(folder.data, console) if ranks.is_first else nullcontext():
            if ranks.is_first:
                _write_study(study, folder)
            benchmarks = {name for run in unfinished for name in run.unasked()}
            data = prepare_data(study, folder.path, board, benchmarks, for_training=needs_training)
        tokens = token_folder((StudyFolder(runs_dir) if isinstance(study, TrialStudy) else folder).tokens)
        executor = Executor(planned, data, Backbones(study), tokens, str(study_file), board, ranks)
        work_through(planned, executor.execute, board.console, ranks)
    return folder.path


def _write_study(study: Study, folder: StudyFolder) -> None:
    """Write the study with all its defaults, unless the file already has this content."""
    content = study.model_dump(mode="json")
    if not folder.study.is_file() or read_json(folder.study) != content:
        write_json(folder.study, content)


@dataclass(frozen=True)
class Executor:
    """Executes runs of a study, with everything that the runs share.

    Attributes:
        planned: all runs of the study.
        data: training conversations and benchmarks.
        backbones: the frozen backbones.
        tokens: folder of the visual tokens; trials share those of their study.
        source: the study file, for messages.
        board: shows progress.
        ranks: the processes that work on each run together.
    """

    planned: Sequence[PlannedRun]
    data: StudyData
    backbones: Backbones
    tokens: Path
    source: str
    board: Progress
    ranks: Ranks

    def execute(self, run: PlannedRun) -> None:
        """Complete one run: visual tokens, training, predictions, scores and seal."""
        with run_log(run.files.log, f"{run.arm}, seed {run.seed}", writes=self.ranks.is_first):
            self._execute(run)

    def _execute(self, run: PlannedRun) -> None:
        loaded = self.backbones[run.arm]
        refuse(run, run.changes(run.model.with_backbone(loaded.weights_sha256)), self.source)
        if not run.files.is_trained:
            self.train(run, loaded)
            gc.collect()  # a sharded model is part of a reference cycle, and its memory is needed now
        unasked = run.unasked()
        self.ranks.wait()  # until every process has read what is unasked
        if unasked:
            self.ask(run, loaded, unasked)
        if self.ranks.is_first:
            if not run.files.is_scored:
                write_scores(run.folder)
            write_seal(run.folder)
            shutil.rmtree(run.files.checkpoints, ignore_errors=True)
        self.ranks.wait()
        self.backbones.keep({other.arm for other in self.planned if other.state() != "done"})

    def train(self, run: PlannedRun, loaded: LoadedBackbone) -> None:
        """Train a run's VLM, resuming from its last checkpoint if there is one."""
        data = self.data.for_training(run.recipe.data)
        if self.ranks.is_first:  # which reads a part of every image
            refuse_changed_images(run, data, self.planned)
        cache = cached_tokens(run, data, loaded, self.tokens, self.board, self.ranks)
        train_run(run, data, loaded, cache, self.board, self.ranks)

    def ask(self, run: PlannedRun, loaded: LoadedBackbone, names: Sequence[str]) -> None:
        """Ask a trained VLM the named benchmarks, on a GPU in bf16 as published."""
        data = self.data.for_asking(names)
        if self.ranks.is_first:
            refuse_changed_images(run, data, self.planned)
            _reopen(run)
            record_questions(run, data, loaded)
        self.ranks.wait()
        cache = cached_tokens(run, data, loaded, self.tokens, self.board, self.ranks)  # none if the backbone learnt
        settings = Settings(
            data=str(data.root),
            subset=run.study.subset or "full",
            split=run.study.split,
            box_frame=run.study.recipe.test_box_frame,
        )
        own = ConnectorName.parse(run.study.connector_of(run.arm)).own
        model = load_model(run.files.model, settings, self.ranks, trusts_code=False if own is None else own.sha256)
        if run.recipe.tuned is not None:
            learnt = load_frozen(model.config, str(run.files.model), trusts_code=True)  # the study names its file
            learnt.network.eval()  # as published it begins in train mode
            loaded = dataclasses.replace(learnt, geometry=loaded.geometry)
        task = self.board.task(f"{run.arm}: benchmarks", sum(len(examples) for _, examples, _ in data.asked))
        ask_and_score(
            model, loaded, data.asked, run.folder, settings, task, workers=self.ranks, cache=cache, renew=True
        )


def _reopen(run: PlannedRun) -> None:
    """Remove seal and scores of a run that is to be asked more, provided its files still match the seal.

    Raises:
        RunError: if they do not.
    """
    if run.files.seal.is_file():
        changed = list(changed_files(run.folder))
        if changed:
            raise RunError(
                f"{run.folder}: files of this finished run have changed: {', '.join(changed)}; restore them, or delete "
                f"{run.files.seal.name} to ask further benchmarks with the changed files"
            )
    run.files.seal.unlink(missing_ok=True)
    run.files.scores.unlink(missing_ok=True)
