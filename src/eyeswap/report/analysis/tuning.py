"""Does the ranking survive tuning? Each arm with the learning rate of the recipe, and with its own best one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from eyeswap.planning.tuning import tuned_name
from eyeswap.report.analysis.study import StudyResults
from eyeswap.results.scores import Score
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.record import Trial, TuningRecord
from eyeswap.runs.recorded import read_record


@dataclass(frozen=True)
class TunedArm:
    """One arm, matched and tuned.

    Attributes:
        name: of the arm.
        trials: what it tried.
        lr: what was chosen.
        matched: overall average with the learning rate of the recipe.
        tuned: the same with its own; that of the matched arm if its own is the recipe's.
        is_same: whether it is.
    """

    name: str
    trials: tuple[Trial, ...]
    lr: float
    matched: Score
    tuned: Score
    is_same: bool


@dataclass(frozen=True)
class Tuning:
    """Arms matched and tuned side by side, the best matched one first.

    Attributes:
        arms: those of which both are finished.
        rule: by which rates were chosen.
        exchanged: pairs of arms that stand the other way round after tuning.
        in_words: the answer in a sentence.
    """

    arms: list[TunedArm]
    rule: str
    exchanged: list[tuple[str, str]]
    in_words: str


def tuning(results: StudyResults) -> Tuning | None:
    """Return what tuning changed; None if the study tuned nothing, or not two arms are finished.

    Raises:
        DataError: if ``tuning.json`` is damaged.
    """
    file = StudyFolder(results.folder).tuning
    if not file.is_file():
        return None
    record = read_record(file, TuningRecord)
    averages = {arm.name: arm.scores.averages["overall"] for arm in results.finished_arms}
    known = {arm.name for arm in results.arms}
    arms = []
    for name, rate in record.chosen.items():
        twin = tuned_name(name) if tuned_name(name) in known else name
        if name in averages and twin in averages:
            pair = averages[name], averages[twin]
            arms.append(TunedArm(name, record.trials.get(name, ()), rate, *pair, is_same=twin == name))
    if len(arms) < 2:
        return None
    arms.sort(key=lambda arm: -arm.matched.value)
    exchanged = [(first.name, second.name) for first, second in combinations(arms, 2) if _exchanged(first, second)]
    return Tuning(arms, record.rule, exchanged, _in_words(arms, exchanged))


def _exchanged(first: TunedArm, second: TunedArm) -> bool:
    return (first.matched.value - second.matched.value) * (first.tuned.value - second.tuned.value) < 0


def _in_words(arms: list[TunedArm], exchanged: list[tuple[str, str]]) -> str:
    """Say how the averages of these runs stand; which differences are decided is said by the pairs alone."""
    if not exchanged:
        found = (
            f"In these runs the {len(arms)} arms keep the order of their averages with their own best learning rates"
        )
    else:
        pairs = ", ".join(f"{first} and {second}" for first, second in exchanged)
        best = max(arms, key=lambda arm: arm.tuned.value).name
        first = f"{best} stays first" if best == arms[0].name else f"{best} is first instead of {arms[0].name}"
        found = f"In these runs, with their own best learning rates, {pairs} change places; {first}"
    return f"{found}. Whether that is more than chance, the comparison of all pairs says."
