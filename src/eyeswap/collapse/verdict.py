"""The verdict on a run's localization: a computable definition of collapse, with the evidence in words.

A *gain* is the localization score minus that of a reference that cannot locate: the best constant box, or the same
model on blanked or shuffled images. The *expected* gain over the constant box is predicted from the run's VQA score by
the other arms (a Theil-Sen line through at least four of them), or 10 points if they are too few or predict less. Each
benchmark is judged, and all of them together; the worst verdict is the run's.

* collapsed: some gain is not significantly above zero and its upper end is below half of the expected gain; or the gain
  over the constant box is below half of the expected gain and outside the peers' scatter.
* wrong frame: in another box frame, the same boxes score higher and are healthy.
* loose boxes: not healthy, but healthy if each box kept its centre and had the size of the ground truth.
* weak: above the constant box, but below the peers' scatter or by less than 10 points; or most answers are the same
  box; or the image contributes, but less than half of the expected gain.
* healthy: above the constant box by as much as expected.
* cannot tell: the measurements allow both, or a probe's gain is below expectation and not significantly above zero.

``docs/collapse.md`` has the reasons for each number, and the accuracy of the verdicts on simulated arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from eyeswap.collapse.answers import FRAMES, TRUE_SIZES
from eyeswap.collapse.signs import CONSTANT_BOX, LOCALIZATION, PROBES, Boxes, Gain, Located, Signs, measure_run
from eyeswap.results.run import Run

Verdict = Literal["healthy", "weak", "loose boxes", "wrong frame", "collapsed", "cannot tell"]
Points = Mapping[str, tuple[float, float]]  # arm to (VQA, gain over the constant box)

WORST_FIRST: tuple[Verdict, ...] = ("collapsed", "wrong frame", "loose boxes", "weak", "cannot tell", "healthy")
MIN_PEERS = 4
FLOOR = 10.0  # smallest expected gain, points
FAR_BELOW = 0.5  # of the expected gain
SCATTER = 3.0  # robust standard deviations of the peers around their line
SCATTER_OF_ONE = (
    4.0  # the same for a single benchmark, of which there are several, each with a chance of being an outlier
)
MIN_PROBED = 50  # examples of a single benchmark for its probe to count
LOW_DIVERSITY = 0.25
ONE_BOX = 0.5  # of the answers, if the ground truth is at least twice as varied
_MANY_INVALID = 0.5
_NORMAL_95 = 1.96
_HIGH_LOSS = 1.1  # times the peers' median


@dataclass(frozen=True)
class Expected:
    """The gain over the constant box that is expected of a run, in points.

    Attributes:
        value: the peers' line at the run's VQA score, or `FLOOR`.
        low: lower limit of the peers' scatter, or of the run's own error if that is larger; None without enough peers.
        num_peers: number of peers.
        why: how the value was found, or why the peers cannot be used.
    """

    value: float
    low: float | None
    num_peers: int
    why: str


ALONE = Expected(FLOOR, None, 0, "no peers were asked")


@dataclass(frozen=True)
class Judged:
    """The verdict on one benchmark, or on all of them together.

    Attributes:
        title: name of the benchmark, or `LOCALIZATION`.
        verdict: the verdict.
        reason: the deciding reason, a sentence whose subject is the title.
        expected: the expected gain.
        reading: key of the reading of the answers that explains the verdict; None if no other reading does.
    """

    title: str
    verdict: Verdict
    reason: str
    expected: Expected
    reading: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on one run.

    Attributes:
        signs: the measurements.
        expected: the expected gain over all benchmarks; None without localization.
        verdict: the verdict.
        reasons: sentences; the first is the deciding one.
        benchmarks: short name to the verdict on each benchmark; empty unless there are several.
    """

    signs: Signs
    expected: Expected | None
    verdict: Verdict
    reasons: tuple[str, ...]
    benchmarks: Mapping[str, Judged] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmDiagnosis:
    """The verdict on an arm, the worst of its runs'.

    Attributes:
        arm: the arm's name.
        verdict: the verdict.
        reasons: sentences; the first is the deciding one.
        runs: the diagnoses of its runs.
    """

    arm: str
    verdict: Verdict
    reasons: tuple[str, ...]
    runs: tuple[Diagnosis, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict with all evidence as JSON content."""
        return asdict(self)


def diagnose(runs: Iterable[Run]) -> list[ArmDiagnosis]:
    """Measure finished runs and judge their arms, in the order of their first runs.

    Raises:
        DataError: if a file of a run is missing or damaged.
    """
    return by_arm(judge([measure_run(run) for run in runs]))


def judge(signs: Sequence[Signs]) -> list[Diagnosis]:
    """Judge runs, each with the arms of the others as peers."""
    names = dict.fromkeys(name for of_run in signs for name in of_run.parts)
    points = {name: _points(name, signs) for name in names}
    return [_judged(of_run, signs, points) for of_run in signs]


def by_arm(diagnoses: Sequence[Diagnosis]) -> list[ArmDiagnosis]:
    """Group the runs by arm; the worst verdict is the arm's."""
    runs_by_arm: dict[str, list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        runs_by_arm.setdefault(diagnosis.signs.arm, []).append(diagnosis)
    arms = []
    for arm, runs in runs_by_arm.items():
        worst = min(runs, key=lambda run: WORST_FIRST.index(run.verdict))
        num_worst = sum(run.verdict == worst.verdict for run in runs)
        seeds = () if num_worst == len(runs) else (f"{num_worst} of {len(runs)} seeds: {worst.verdict}",)
        arms.append(ArmDiagnosis(arm, worst.verdict, (*seeds, *worst.reasons), tuple(runs)))
    return arms


def expect(arm: str, vqa: float | None, gain: Gain, points: Points, scatter: float = SCATTER) -> Expected:
    """Return the gain over the constant box that the other arms predict for an arm.

    Args:
        arm: the arm.
        vqa: the arm's VQA score, percent.
        gain: the arm's gain over the constant box; the scatter is at least this gain's own error, since four peers may
            lie on one line by chance.
        points: points of all arms that may serve as peers.
        scatter: how many robust standard deviations below the line an arm may lie.
    """
    peers = np.array([point for other, point in points.items() if other != arm]).reshape(-1, 2)
    if vqa is None:
        return Expected(FLOOR, None, len(peers), "no VQA score to predict localization from")
    if len(peers) < MIN_PEERS:
        localize = "peer localizes" if len(peers) == 1 else "peers localize"
        return Expected(FLOOR, None, len(peers), f"{len(peers)} {localize}; a line needs {MIN_PEERS}")
    scores, gains = peers.T
    reach = np.ptp(scores) / 2
    if not scores.min() - reach <= vqa <= scores.max() + reach:
        return Expected(FLOOR, None, len(peers), f"its VQA of {vqa:.1f} is far from all {len(peers)} peers'")
    with np.errstate(invalid="ignore"):  # raised by the slope's interval, which is not used, if all gains are equal
        slope = float(stats.theilslopes(gains, scores).slope) if np.ptp(scores) > 0 else 0.0
    level = float(np.median(gains - slope * scores))
    value = level + slope * vqa
    if value < FLOOR:
        return Expected(FLOOR, None, len(peers), f"the {len(peers)} peers predict under {FLOOR:.0f} points at its VQA")
    deviation = stats.median_abs_deviation(gains - level - slope * scores, scale="normal")
    spread = float(deviation * np.sqrt(len(peers) / (len(peers) - 2)))  # two degrees of freedom go to the line
    error = (gain.high - gain.low) / (2 * _NORMAL_95)
    low = value - scatter * max(spread, error)
    return Expected(value, low, len(peers), f"the line through {len(peers)} peers at its VQA of {vqa:.1f}")


def _points(name: str, signs: Sequence[Signs]) -> Points:
    """Return (VQA, gain over the constant box) of each arm that may serve as a peer, averaged over its seeds.

    Arms that are collapsed or in the wrong frame even without peers cannot serve as peers.

    Args:
        name: a benchmark, or `LOCALIZATION`.
        signs: the measurements of all runs.
    """
    by_arm: dict[str, list[tuple[float, float]]] = {}
    for of_run in signs:
        part = of_run.parts.get(name)
        if of_run.vqa is None or part is None:
            continue
        if _decided(part, ALONE).verdict in ("healthy", "weak", "cannot tell"):
            by_arm.setdefault(of_run.arm, []).append((of_run.vqa, part.gains[CONSTANT_BOX].value))
    return {
        arm: (float(np.mean([x for x, _ in rows])), float(np.mean([y for _, y in rows])))
        for arm, rows in by_arm.items()
    }


def _trivial(gain: Gain, expected: Expected) -> bool:
    """Whether a gain is not significantly above zero, and its upper end is below half of the expected gain.

    Within the peers' scatter, half of the floor takes the place of half of the expected gain.
    """
    if gain.low > 0:
        return False
    is_outside = expected.low is not None and gain.value < expected.low
    return gain.high < FAR_BELOW * (expected.value if is_outside else FLOOR)


def _judged(run: Signs, signs: Sequence[Signs], points: Mapping[str, Points]) -> Diagnosis:
    """Judge all benchmarks together, then each of them; the first of the worst verdicts is the run's."""
    if not run.parts:
        return Diagnosis(run, None, "cannot tell", ("no localization benchmark with boxes was asked",))
    judged: dict[str, Judged] = {}
    for name, part in run.parts.items():
        scatter = SCATTER if name == LOCALIZATION else SCATTER_OF_ONE
        expected = expect(run.arm, run.vqa, part.gains[CONSTANT_BOX], points[name], scatter)
        together = judged.get(LOCALIZATION)
        judged[name] = _decided(part, expected) if together is None else _decided_of_one(part, expected, together)
    worst = min(judged, key=lambda name: _rank(judged[name], run.parts[name]))
    decided = judged[worst]
    others = [
        f"{other.title} ({other.verdict}) {other.reason}"
        for name, other in judged.items()
        if name != worst and other.verdict != "healthy"
    ]
    others += _circumstances(run, run.parts[worst], decided, signs)
    reasons = (f"{decided.title} {decided.reason}", *others)
    return Diagnosis(run, judged.pop(LOCALIZATION).expected, decided.verdict, reasons, judged)


def _rank(judged: Judged, part: Located) -> int:
    """Return the rank of a verdict, worst first.

    A fair gain of a single benchmark that its few examples cannot prove does not count against the run: it is reported,
    and all benchmarks together decide.
    """
    is_open = judged.verdict == "cannot tell" and part.gains[CONSTANT_BOX].value >= FLOOR
    return WORST_FIRST.index("healthy" if is_open and part.title != LOCALIZATION else judged.verdict)


def _decided(part: Located, expected: Expected) -> Judged:
    """Judge some answers by their gains, or by another reading of them that explains the score.

    A reading explains the score if it is significantly higher and would be healthy without peers; true sizes only if
    they restore half of the missing gain, because a benchmark could not read answers that way.
    """
    verdict, reason = _by_gains(part.gains, part.boxes, expected)
    healthy = {
        name: reading
        for name, reading in part.readings.items()
        if reading.lead.low > 0 and _by_gains(reading.gains, part.boxes, ALONE)[0] == "healthy"
    }
    frames = [name for name in healthy if name in FRAMES]
    if frames:
        return _explained(part, max(frames, key=lambda name: healthy[name].score), expected)
    missing = expected.value - part.gains[CONSTANT_BOX].value
    if verdict != "healthy" and TRUE_SIZES in healthy and healthy[TRUE_SIZES].lead.value >= FAR_BELOW * missing:
        return _explained(part, TRUE_SIZES, expected)
    return Judged(part.title, verdict, reason, expected)


def _decided_of_one(part: Located, expected: Expected, together: Judged) -> Judged:
    """Judge a single benchmark, which may have few examples.

    Its probes count only if they are decisive, and the reading that explains all benchmarks together explains this one
    too unless it is shown not to.
    """
    decisive = {
        than: gain
        for than, gain in part.gains.items()
        if than == CONSTANT_BOX or (gain.n >= MIN_PROBED and (gain.low > 0 or _trivial(gain, expected)))
    }
    judged = _decided(replace(part, gains=decisive), expected)
    reading = part.readings.get(together.reading or "")
    if judged.verdict == "healthy" or reading is None or reading.gains[CONSTANT_BOX].high < FLOOR:
        return judged
    return _explained(part, str(together.reading), expected)


def _explained(part: Located, name: str, expected: Expected) -> Judged:
    """Return the verdict that another reading explains some answers."""
    scores = f"scores {part.score:.1f}, but would score {part.readings[name].score:.1f}"
    if name in FRAMES:
        return Judged(part.title, "wrong frame", f"{scores} in {FRAMES[name]}", expected, name)
    reason = f"{scores} if its boxes had the true sizes: they are in the right places"
    return Judged(part.title, "loose boxes", reason, expected, name)


def _by_gains(gains: Mapping[str, Gain], boxes: Boxes, expected: Expected) -> tuple[Verdict, str]:
    """Return the verdict that follows from some gains, and the deciding reason."""
    gain = gains[CONSTANT_BOX]
    over_constant_box = _over(CONSTANT_BOX, gain)
    for than, other in gains.items():
        if _trivial(other, expected):
            limit = f"below half of the {expected.value:.1f} expected"
            return "collapsed", f"{_over(than, other)}: not significantly above zero, and {limit}"
    if expected.low is not None and gain.high < FAR_BELOW * expected.value and gain.value < expected.low:
        return "collapsed", f"{over_constant_box}, far below the {expected.value:.1f} that its peers predict"
    if boxes.diversity < LOW_DIVERSITY and (gain.low <= 0 or gain.value < FAR_BELOW * expected.value):
        return "collapsed", f"{over_constant_box}, and its boxes hardly vary"
    if gain.low <= 0:
        return "cannot tell", f"{over_constant_box}: the interval includes both zero and a fair gain; ask more examples"
    for than, other in gains.items():
        if other.low <= 0 and other.high < expected.value:
            reason = "below expectation and not significantly above zero; probe more examples"
            return "cannot tell", f"{_over(than, other)}: {reason}"
        if other.high < FAR_BELOW * expected.value and than != CONSTANT_BOX:
            return "weak", f"{_over(than, other)}: most of its hits need no image"
    if boxes.commonest_share > ONE_BOX and boxes.diversity < ONE_BOX:
        return "weak", f"{over_constant_box}, but {boxes.commonest_share:.0%} of its boxes are identical"
    if gain.value < FLOOR:
        return "weak", f"{over_constant_box}: significant, but less than {FLOOR:.0f} points"
    if expected.low is not None and gain.value < expected.low:
        return "weak", f"{over_constant_box}, less than the {expected.value:.1f} that its peers predict"
    return "healthy", over_constant_box


def _circumstances(run: Signs, part: Located, judged: Judged, signs: Sequence[Signs]) -> Iterator[str]:
    """Yield further observations about the deciding part, which explain the verdict but do not affect it."""
    for than, gain in part.gains.items():
        if than != CONSTANT_BOX and not judged.reason.startswith(_over(than, gain)):
            yield f"{part.title} {_over(than, gain)}"
    for than, gain in run.vqa_gains.items():
        yield f"VQA {_over(than, gain)}"
    if not any(title in part.gains for title in PROBES.values()):
        yield "not probed with blanked or shuffled images: a model that guesses from the question would go unnoticed"
    if judged.expected.low is None:
        yield f"peers do not predict a gain: {judged.expected.why}"
    boxes = part.boxes
    if boxes.invalid_rate > _MANY_INVALID:
        yield f"{boxes.invalid_rate:.0%} of the answers are not boxes: a problem of format before one of vision"
    if boxes.diversity < LOW_DIVERSITY:
        yield (
            f"boxes hardly vary: {boxes.entropy_bits:.1f} bits of entropy, the ground truth "
            f"{boxes.true_entropy_bits:.1f}; {boxes.commonest_share:.0%} are identical"
        )
    yield from _about_losses(run, signs)


def _about_losses(run: Signs, signs: Sequence[Signs]) -> Iterator[str]:
    if run.losses is None:
        return
    if run.losses.spikes:
        yield f"its training loss had {run.losses.spikes} spikes"
    others = [other.losses.final for other in signs if other.losses is not None and other.arm != run.arm]
    if others and run.losses.final > _HIGH_LOSS * float(np.median(others)):
        yield f"its final loss is {run.losses.final:.3f}, its peers' {float(np.median(others)):.3f}"


def _over(than: str, gain: Gain) -> str:
    """Return a gain in words, without its subject."""
    reference = f"the {than}" if than == CONSTANT_BOX else f"the same model on {than}"
    return f"gains {gain.value:.1f} points [{gain.low:.1f}, {gain.high:.1f}] over {reference}"
