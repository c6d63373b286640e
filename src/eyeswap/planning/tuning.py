"""Fair tuning: every arm tries the same learning rates, and its best one makes a further arm, ``<arm>-tuned``.

A matched recipe may favour one arm. So each arm gets the same number of trials, each a training of its own under a seed
that no result uses, judged by questions of the training splits. The rule is stated beforehand: the highest overall
average, of equal ones the smaller rate. Trials are runs like any other, in ``runs/<study>/tuning``; ``tuning.json``
beside them records each score and what was chosen. An arm whose best rate is the one it has already gets no twin.
"""

from __future__ import annotations

from pathlib import Path

from eyeswap.data.official.layout import Split
from eyeswap.errors import SpecError
from eyeswap.planning.spec import Study
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.record import Trial, TuningRecord
from eyeswap.runs.recorded import read_record

TRIALS = "tuning"  # name of the study of trials
RULE = "the highest overall average over questions of the training splits; of equal ones the smaller rate"


class TrialStudy(Study):
    """The trials of a study: every arm with every learning rate, asked questions of the training splits."""

    @property
    def split(self) -> Split:
        """Which questions are asked."""
        return "train"


def trial_study(study: Study) -> TrialStudy:
    """Return the trials of a study as a study.

    Raises:
        SpecError: if the study tunes nothing.
    """
    tune = study.tune
    if tune is None:
        raise SpecError(f"{study.name}: has no tune")
    arms = {
        trial_name(name, number): {**arm.model_dump(mode="json"), "lr": rate}
        for name, arm in study.arms.items()
        for number, rate in enumerate(tune.lr)
    }
    recipe = study.recipe.model_dump(mode="json")
    steps = {} if tune.steps is None else {"max_steps": tune.steps}
    return TrialStudy.model_validate(
        {
            **study.model_dump(mode="json"),
            "name": TRIALS,
            "question": f"Which learning rate suits each arm of {study.name}?",
            "recipe": {**recipe, **steps},
            "arms": arms,
            "may_differ": sorted({*study.may_differ, "lr"}),
            "matched": [],
            "seeds": [tune.on],
            "seed_sd": None,
            "subset": tune.subset,
            "tune": None,
        }
    )


def trial_name(arm: str, number: int) -> str:
    """Return the name of an arm's trial with the learning rate of a number, from 0."""
    return f"{arm}-lr-{number + 1}"


def choose(study: Study, scores: dict[str, float]) -> TuningRecord:
    """Choose the learning rate of each arm by the rule.

    Args:
        study: the study.
        scores: overall average of each trial, by `trial_name`.
    """
    tune = study.tune
    assert tune is not None
    trials = {
        arm: tuple(Trial(lr=rate, score=scores[trial_name(arm, number)]) for number, rate in enumerate(tune.lr))
        for arm in study.arms
    }
    chosen = {arm: min(tried, key=lambda trial: (-trial.score, trial.lr)).lr for arm, tried in trials.items()}
    settings = tune.model_dump(mode="json")
    return TuningRecord(rule=RULE, settings=settings, trials=trials, chosen=chosen)


def with_tuned_arms(study: Study, runs_dir: Path) -> Study:
    """Return a study with the tuned twins of its arms, as far as they are chosen already.

    Raises:
        SpecError: if they were chosen for other settings.
        DataError: if the record is damaged.
    """
    file = StudyFolder(runs_dir / study.name).tuning
    if study.tune is None or not file.is_file():
        return study
    record = read_record(file, TuningRecord)
    if record.settings != study.tune.model_dump(mode="json") or set(record.chosen) != set(study.arms):
        raise SpecError(f"{file}: was made for other arms or another tune; delete it to tune anew")
    return _with_arms(study, record)


def _with_arms(study: Study, record: TuningRecord) -> Study:
    arms = {name: arm.model_dump(mode="json") for name, arm in study.arms.items()}
    for name, rate in record.chosen.items():
        if rate != study.recipe_of(name).lr:
            arms[tuned_name(name)] = {**arms[name], "lr": rate}
    may_differ = [*study.may_differ, *({"lr"} - set(study.may_differ))]
    return type(study).model_validate({**study.model_dump(mode="json"), "arms": arms, "may_differ": may_differ})


def tuned_name(arm: str) -> str:
    """Return the name of an arm's tuned twin."""
    return f"{arm}-tuned"
