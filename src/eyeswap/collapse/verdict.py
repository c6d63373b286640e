"""Has a run's localization collapsed? A definition that can be computed, and the evidence in words.

Let *gain* be the localization score minus that of something that cannot locate: the best constant box, or the same
model on blanked or shuffled images. Let *expected* be the gain over the constant box that the run's VQA score predicts
from the other arms (Theil-Sen line through at least four of them), or 10 points where the others cannot tell or lead
to expect less. Each benchmark is judged, and all of them together; the worst verdict is the run's.

* collapsed: some gain is not above zero (its interval reaches it) and shown to be small (its upper end is under half
  of the expected); or the gain over the constant box is under half of the expected, and outside of what peers scatter.
* wrong frame: read as fractions of something else, the same boxes score more and are healthy.
* loose boxes: not healthy, but healthy if each box kept its centre and had the size of the true one.
* weak: above the constant box, but by less than the peers' scatter allows, or than 10 points; or most answers are one
  and the same box; or the image is worth something, but under half of the expected.
* healthy: above the constant box by as much as expected.
* cannot tell: what was measured allows either, or a probe shows less than expected and no gain for sure.

``docs/collapse.md`` has the reasons for each number, and how often the verdicts are right on arms of known kind.
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
FLOOR = 10.0  # points of gain expected where no peers say more
FAR_BELOW = 0.5  # of what is expected
SCATTER = 3.0  # robust standard deviations of the peers around their line
SCATTER_OF_ONE = 4.0  # the same of one benchmark of several, each of which may fall out
FEWEST_PROBED = 50  # examples of one benchmark of several, for its probe to decide anything
LOW_DIVERSITY = 0.25
ONE_BOX = 0.5  # of the answers, where the true boxes are at least twice as varied
_MOST_INVALID = 0.5
_NORMAL_95 = 1.96
_HIGH_LOSS = 1.1  # times the median of the peers


@dataclass(frozen=True)
class Expected:
    """What the other arms lead to expect of a run's gain over the constant box, in points.

    Attributes:
        value: the peers' line at the run's VQA score, or `FLOOR`.
        low: where the peers' scatter, or the run's own error if that is larger, ends; None without enough peers.
        num_peers: arms that the line goes through.
        why: how it was found, or why the peers cannot tell.
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
        verdict: as that of the arm.
        reason: what decided, a sentence without its subject, the title.
        expected: what the peers lead to expect.
        reading: key of the reading of the answers that explains the verdict; None without one.
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
        signs: what was measured.
        expected: what the peers lead to expect of all benchmarks together; None without localization.
        verdict: healthy, weak, loose boxes, wrong frame, collapsed or cannot tell.
        reasons: sentences; the first decided.
        benchmarks: short name to the verdict on each; empty where there are not several.
    """

    signs: Signs
    expected: Expected | None
    verdict: Verdict
    reasons: tuple[str, ...]
    benchmarks: Mapping[str, Judged] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmDiagnosis:
    """The verdict on an arm: the worst of its runs'.

    Attributes:
        arm: its name.
        verdict: as that of a run.
        reasons: sentences; the first decided.
        runs: its runs, by seed.
    """

    arm: str
    verdict: Verdict
    reasons: tuple[str, ...]
    runs: tuple[Diagnosis, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict with all evidence as plain data for JSON."""
        return asdict(self)


def diagnose(runs: Iterable[Run]) -> list[ArmDiagnosis]:
    """Measure finished runs and judge their arms, in the order in which arms come first.

    Raises:
        DataError: if a file of a run is missing or damaged.
    """
    return by_arm(judge([measure_run(run) for run in runs]))


def judge(signs: Sequence[Signs]) -> list[Diagnosis]:
    """Judge runs, each beside the arms of the others."""
    names = dict.fromkeys(name for one in signs for name in one.parts)
    points = {name: _points(name, signs) for name in names}
    return [_judged(one, signs, points) for one in signs]


def by_arm(diagnoses: Sequence[Diagnosis]) -> list[ArmDiagnosis]:
    """Gather the runs of each arm; the worst verdict is the arm's."""
    arms: dict[str, list[Diagnosis]] = {}
    for one in diagnoses:
        arms.setdefault(one.signs.arm, []).append(one)
    found = []
    for arm, runs in arms.items():
        worst = min(runs, key=lambda one: WORST_FIRST.index(one.verdict))
        alike = sum(one.verdict == worst.verdict for one in runs)
        counted = () if alike == len(runs) else (f"{alike} of {len(runs)} seeds: {worst.verdict}",)
        found.append(ArmDiagnosis(arm, worst.verdict, (*counted, *worst.reasons), tuple(runs)))
    return found


def expect(arm: str, vqa: float | None, gain: Gain, points: Points, scatter: float = SCATTER) -> Expected:
    """Return what the other arms lead to expect of an arm's gain over the constant box.

    Args:
        arm: the arm.
        vqa: its VQA score, percent.
        gain: its gain over the constant box; four peers on one line by chance are no proof of a law, so the scatter
            that is allowed is never less than this gain's own error.
        points: of every arm that may serve as a peer.
        scatter: robust standard deviations around the line that an arm may lie below it.
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
    with np.errstate(invalid="ignore"):  # the slope's interval, which is not used, has none among equal gains
        slope = float(stats.theilslopes(gains, scores).slope) if np.ptp(scores) > 0 else 0.0
    level = float(np.median(gains - slope * scores))
    value = level + slope * vqa
    if value < FLOOR:
        return Expected(FLOOR, None, len(peers), f"the {len(peers)} peers gain under {FLOOR:.0f} points at its VQA")
    spread = stats.median_abs_deviation(gains - level - slope * scores, scale="normal") * np.sqrt(
        len(peers) / (len(peers) - 2)
    )
    own = (gain.high - gain.low) / (2 * _NORMAL_95)
    low = value - scatter * max(float(spread), own)
    return Expected(value, low, len(peers), f"the line through {len(peers)} peers at its VQA of {vqa:.1f}")


def _points(name: str, signs: Sequence[Signs]) -> Points:
    """Return (VQA, gain over the constant box) of each arm that may serve as a peer, averaged over its seeds.

    What is collapsed, or read wrongly, even if no peers are asked, shows nobody what to expect.

    Args:
        name: a benchmark, or `LOCALIZATION`.
        signs: of all runs.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for one in signs:
        part = one.parts.get(name)
        if one.vqa is None or part is None:
            continue
        if _decided(part, ALONE).verdict in ("healthy", "weak", "cannot tell"):
            found.setdefault(one.arm, []).append((one.vqa, part.gains[CONSTANT_BOX].value))
    return {
        arm: (float(np.mean([x for x, _ in rows])), float(np.mean([y for _, y in rows]))) for arm, rows in found.items()
    }


def _trivial(gain: Gain, expected: Expected) -> bool:
    """Whether a gain is not above zero, and shown to be under half of what is expected.

    Peers that scatter much lead to expect nothing in particular; half of the floor is little beside any.
    """
    if gain.low > 0:
        return False
    is_outside = expected.low is not None and gain.value < expected.low
    return gain.high < FAR_BELOW * (expected.value if is_outside else FLOOR)


def _judged(one: Signs, signs: Sequence[Signs], points: Mapping[str, Points]) -> Diagnosis:
    """Judge all benchmarks together, then each of them; the first of the worst verdicts is the run's."""
    if not one.parts:
        return Diagnosis(one, None, "cannot tell", ("no localization benchmark with boxes was asked",))
    judged: dict[str, Judged] = {}
    for name, part in one.parts.items():
        scatter = SCATTER if name == LOCALIZATION else SCATTER_OF_ONE
        expected = expect(one.arm, one.vqa, part.gains[CONSTANT_BOX], points[name], scatter)
        together = judged.get(LOCALIZATION)
        judged[name] = _decided(part, expected) if together is None else _decided_of_one(part, expected, together)
    worst = min(judged, key=lambda name: _rank(judged[name], one.parts[name]))
    decided = judged[worst]
    others = [
        f"{other.title} ({other.verdict}) {other.reason}"
        for name, other in judged.items()
        if name != worst and other.verdict != "healthy"
    ]
    others += _circumstances(one, one.parts[worst], decided, signs)
    reasons = (f"{decided.title} {decided.reason}", *others)
    return Diagnosis(one, judged.pop(LOCALIZATION).expected, decided.verdict, reasons, judged)


def _rank(judged: Judged, part: Located) -> int:
    """Return the place of a verdict, worst first.

    A fair gain that few examples cannot prove in one benchmark is told, and left to all of them together to prove.
    """
    is_open = judged.verdict == "cannot tell" and part.gains[CONSTANT_BOX].value >= FLOOR
    return WORST_FIRST.index("healthy" if is_open and part.title != LOCALIZATION else judged.verdict)


def _decided(part: Located, expected: Expected) -> Judged:
    """Judge some answers by their score, or by another reading of them that explains it.

    A reading explains a score if it is surely above it and would be healthy without peers; the true sizes only if they
    bring back half of what is missing, because they are no reading that a benchmark could take.
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
    """Judge one benchmark of several, of which few questions may be asked.

    What its probes leave open is said of all benchmarks together, and the reading that explains all of them explains
    this one unless it is shown not to.
    """
    shown = {
        than: gain
        for than, gain in part.gains.items()
        if than == CONSTANT_BOX or (gain.n >= FEWEST_PROBED and (gain.low > 0 or _trivial(gain, expected)))
    }
    judged = _decided(replace(part, gains=shown), expected)
    reading = part.readings.get(together.reading or "")
    if judged.verdict == "healthy" or reading is None or reading.gains[CONSTANT_BOX].high < FLOOR:
        return judged
    return _explained(part, str(together.reading), expected)


def _explained(part: Located, name: str, expected: Expected) -> Judged:
    """Return the verdict that a reading explains some answers."""
    would, scores = part.readings[name].score, f"scores {part.score:.1f}"
    if name in FRAMES:
        return Judged(
            part.title, "wrong frame", f"would score {would:.1f} in {FRAMES[name]}, and {scores}", expected, name
        )
    reason = f"would score {would:.1f} if its boxes had the true sizes, and {scores}: they lie in the right places"
    return Judged(part.title, "loose boxes", reason, expected, name)


def _by_gains(gains: Mapping[str, Gain], boxes: Boxes, expected: Expected) -> tuple[Verdict, str]:
    """Return the verdict that follows from some gains, and what decided it."""
    gain = gains[CONSTANT_BOX]
    ahead = _over(CONSTANT_BOX, gain)
    for than, other in gains.items():
        if _trivial(other, expected):
            least = f"under half of the {expected.value:.1f} expected"
            return "collapsed", f"{_over(than, other)}: not above zero, and {least}"
    if expected.low is not None and gain.high < FAR_BELOW * expected.value and gain.value < expected.low:
        return "collapsed", f"{ahead}, far below the {expected.value:.1f} that its peers lead to expect"
    if boxes.diversity < LOW_DIVERSITY and (gain.low <= 0 or gain.value < FAR_BELOW * expected.value):
        return "collapsed", f"{ahead}, and its boxes hardly vary"
    if gain.low <= 0:
        return "cannot tell", f"{ahead}: the interval allows no gain and a fair one; ask more examples"
    for than, other in gains.items():
        if other.low <= 0 and other.high < expected.value:
            said = "above zero or not, and less than expected; probe more examples"
            return "cannot tell", f"{_over(than, other)}: {said}"
        if other.high < FAR_BELOW * expected.value and than != CONSTANT_BOX:
            return "weak", f"{_over(than, other)}: most of its hits need no image"
    if boxes.commonest_share > ONE_BOX and boxes.diversity < ONE_BOX:
        return "weak", f"{ahead}, but {boxes.commonest_share:.0%} of its boxes are one and the same"
    if gain.value < FLOOR:
        return "weak", f"{ahead}: above it, but by less than {FLOOR:.0f} points"
    if expected.low is not None and gain.value < expected.low:
        return "weak", f"{ahead}, less than the {expected.value:.1f} that its peers lead to expect"
    return "healthy", ahead


def _circumstances(one: Signs, part: Located, judged: Judged, signs: Sequence[Signs]) -> Iterator[str]:
    """Say what else was seen of the part that decided; it explains, and decides nothing."""
    for than, gain in part.gains.items():
        if than != CONSTANT_BOX and not judged.reason.startswith(_over(than, gain)):
            yield f"{part.title} {_over(than, gain)}"
    for than, gain in one.vqa_gains.items():
        yield f"VQA {_over(than, gain)}"
    if not any(title in part.gains for title in PROBES.values()):
        yield "not probed with blanked or shuffled images: a prior that reads the question would pass for an eye"
    if judged.expected.low is None:
        yield f"peers cannot tell what to expect: {judged.expected.why}"
    boxes = part.boxes
    if boxes.invalid_rate > _MOST_INVALID:
        yield f"{boxes.invalid_rate:.0%} of the answers are no box: a matter of format before one of sight"
    if boxes.diversity < LOW_DIVERSITY:
        yield (
            f"boxes hardly vary: {boxes.entropy_bits:.1f} bits, the true ones {boxes.true_entropy_bits:.1f}; "
            f"{boxes.commonest_share:.0%} are one and the same"
        )
    yield from _about_losses(one, signs)


def _about_losses(one: Signs, signs: Sequence[Signs]) -> Iterator[str]:
    if one.losses is None:
        return
    if one.losses.spikes:
        yield f"training had {one.losses.spikes} spikes of its loss"
    others = [other.losses.final for other in signs if other.losses is not None and other.arm != one.arm]
    if others and one.losses.final > _HIGH_LOSS * float(np.median(others)):
        yield f"its loss ends at {one.losses.final:.3f}, that of its peers at {float(np.median(others)):.3f}"


def _over(than: str, gain: Gain) -> str:
    """Return a gain in words, without its subject."""
    the = f"the {than}" if than == CONSTANT_BOX else f"the same model on {than}"
    return f"gains {gain.value:.1f} points [{gain.low:.1f}, {gain.high:.1f}] over {the}"
