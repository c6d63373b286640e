"""Carry out the trials of a study that tunes its arms, and write down what they chose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import Study
from eyeswap.planning.tuning import choose, trial_study, with_tuned_arms
from eyeswap.results.scores import read_scores
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.recorded import write_record

RunStudy = Callable[[Study, Path, Path, Console], Path]


def tuned(study: Study, study_file: Path, runs_dir: Path, console: Console, run_study: RunStudy) -> Study:
    """Return a study with the tuned twins of its arms; run the trials that are not done.

    Args:
        study: the study; one that tunes nothing is returned as it is.
        study_file: the file it came from, for messages.
        runs_dir: folder of all studies' runs.
        console: where progress is shown.
        run_study: runs a study, see `eyeswap.study.execute.run_study`.

    Raises:
        SpecError, DataError, RunError: as `run_study`.
    """
    folder = StudyFolder(runs_dir / study.name)
    if study.tune is not None and not folder.tuning.is_file():
        trials = trial_study(study)
        run_study(trials, study_file, folder.path, console)
        planned = plan_runs(trials, folder.path)
        scores = {run.arm: read_scores(run.files.scores).averages["overall"].value for run in planned}
        write_record(folder.tuning, choose(study, scores))
    return with_tuned_arms(study, runs_dir)
