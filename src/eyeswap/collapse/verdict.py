"""Has a run's localization collapsed? A definition that can be computed, and the evidence in words.

Let *gain* be the localization score minus that of something that cannot locate: the best constant box, or the same
model on blanked or shuffled images. Let *expected* be the gain over the constant box that the run's VQA score predicts
from the other arms (Theil-Sen line through at least four of them), or 10 points where the others cannot tell or lead
to expect less.

* collapsed: some gain is not above zero (its interval reaches it) and shown to be small (its upper end is under half
  of the expected); or the gain over the constant box is under half of the expected, and outside of what peers scatter.
* weak: above the constant box, but by less than the peers' scatter allows, or than 10 points; or the image is worth
  something, but under half of the expected.
* healthy: above the constant box by as much as expected.
* cannot tell: what was measured allows either, or a probe shows less than expected and no gain for sure.

``docs/collapse.md`` has the reasons for each number, and how often the verdicts are right on arms of known kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from eyeswap.collapse.signs import CONSTANT_BOX, PROBES, Gain, Signs, measure_run
from eyeswap.results.run import Run

Verdict = Literal["healthy", "weak", "collapsed", "cannot tell"]

WORST_FIRST: tuple[Verdict, ...] = ("collapsed", "cannot tell", "weak", "healthy")
MIN_PEERS = 4
FLOOR = 10.0  # points of gain expected where no peers say more
FAR_BELOW = 0.5  # of what is expected
SCATTER = 3.0  # robust standard deviations of the peers around their line
LOW_DIVERSITY = 0.25
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


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on one run.

    Attributes:
        signs: what was measured.
        expected: what the peers lead to expect; None without localization.
        verdict: healthy, weak, collapsed or cannot tell.
        reasons: sentences; the first decided.
    """

    signs: Signs
    expected: Expected | None
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ArmDiagnosis:
    """The verdict on an arm: the worst of its runs'.

    Attributes:
        arm: its name.
        verdict: healthy, weak, collapsed or cannot tell.
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
    points = _points([one for one in signs if not _is_trivial(one, FLOOR)])
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


def expect(one: Signs, points: dict[str, tuple[float, float]]) -> Expected:
    """Return what the arms other than a run's own lead to expect of its gain.

    Args:
        one: the run.
        points: (VQA, gain over the constant box) of every arm that may serve as a peer.
    """
    peers = np.array([point for arm, point in points.items() if arm != one.arm]).reshape(-1, 2)
    if one.vqa is None:
        return Expected(FLOOR, None, len(peers), "no VQA score to predict localization from")
    if len(peers) < MIN_PEERS:
        localize = "peer localizes" if len(peers) == 1 else "peers localize"
        return Expected(FLOOR, None, len(peers), f"{len(peers)} {localize}; a line needs {MIN_PEERS}")
    vqa, gains = peers.T
    reach = np.ptp(vqa) / 2
    if not vqa.min() - reach <= one.vqa <= vqa.max() + reach:
        return Expected(FLOOR, None, len(peers), f"its VQA of {one.vqa:.1f} is far from all {len(peers)} peers'")
    slope = float(stats.theilslopes(gains, vqa).slope) if np.ptp(vqa) > 0 else 0.0
    level = float(np.median(gains - slope * vqa))
    value = level + slope * one.vqa
    if value < FLOOR:
        return Expected(FLOOR, None, len(peers), f"the {len(peers)} peers gain under {FLOOR:.0f} points at its VQA")
    spread = stats.median_abs_deviation(gains - level - slope * vqa, scale="normal") * np.sqrt(
        len(peers) / (len(peers) - 2)
    )
    gain = one.gains[CONSTANT_BOX]
    own = (gain.high - gain.low) / (2 * _NORMAL_95)  # four peers on one line by chance are no proof of a law
    low = value - SCATTER * max(float(spread), own)
    return Expected(value, low, len(peers), f"the line through {len(peers)} peers at its VQA of {one.vqa:.1f}")


def _points(signs: Sequence[Signs]) -> dict[str, tuple[float, float]]:
    """Return (VQA, gain over the constant box) of each arm, averaged over its seeds."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in signs:
        if one.vqa is not None and CONSTANT_BOX in one.gains:
            found.setdefault(one.arm, []).append((one.vqa, one.gains[CONSTANT_BOX].value))
    return {
        arm: (float(np.mean([x for x, _ in rows])), float(np.mean([y for _, y in rows]))) for arm, rows in found.items()
    }


def _is_trivial(one: Signs, expected: float) -> bool:
    return any(_trivial(gain, expected) for gain in one.gains.values())


def _trivial(gain: Gain, expected: float) -> bool:
    """Whether a gain is not above zero, and shown to be under half of what is expected."""
    return gain.low <= 0 and gain.high < FAR_BELOW * expected


def _judged(one: Signs, signs: Sequence[Signs], points: dict[str, tuple[float, float]]) -> Diagnosis:
    if one.localization is None or CONSTANT_BOX not in one.gains:
        return Diagnosis(one, None, "cannot tell", ("no localization benchmark with boxes was asked",))
    expected = expect(one, points)
    verdict, reason = _decided(one, expected)
    others = (said for said in _circumstances(one, expected, signs) if not reason.startswith(said))
    return Diagnosis(one, expected, verdict, (reason, *others))


def _decided(one: Signs, expected: Expected) -> tuple[Verdict, str]:
    """Return the verdict and what decided it."""
    gain = one.gains[CONSTANT_BOX]
    ahead = f"{_points_of(gain)} over the best constant box"
    for than, other in one.gains.items():
        if _trivial(other, expected.value):
            least = f"under half of the {expected.value:.1f} expected"
            return "collapsed", f"localization gains {_points_of(other)} over {_the(than)}: not above zero, and {least}"
    if expected.low is not None and gain.high < FAR_BELOW * expected.value and gain.value < expected.low:
        return (
            "collapsed",
            f"localization gains {ahead}, far below the {expected.value:.1f} that its peers lead to expect",
        )
    if gain.low <= 0:
        if one.boxes is not None and one.boxes.diversity < LOW_DIVERSITY:
            return "collapsed", f"localization gains {ahead}, and its boxes hardly vary"
        return (
            "cannot tell",
            f"localization gains {ahead}: the interval allows no gain and a fair one; ask more examples",
        )
    for than, other in one.gains.items():
        said = f"localization gains {_points_of(other)} over {_the(than)}"
        if other.low <= 0 and other.high < expected.value:
            return "cannot tell", f"{said}: above zero or not, and less than expected; probe more examples"
        if other.high < FAR_BELOW * expected.value and than != CONSTANT_BOX:
            return "weak", f"{said}: most of its hits need no image"
    if expected.low is None and gain.value < FLOOR:
        return "weak", f"localization gains {ahead}: above it, but by less than {FLOOR:.0f} points"
    if expected.low is not None and gain.value < expected.low:
        return "weak", f"localization gains {ahead}, less than the {expected.value:.1f} that its peers lead to expect"
    return "healthy", f"localization gains {ahead}"


def _circumstances(one: Signs, expected: Expected, signs: Sequence[Signs]) -> list[str]:
    """Say what else was seen; it explains, and decides nothing."""
    said = [
        f"localization gains {_points_of(gain)} over {_the(than)}"
        for than, gain in one.gains.items()
        if than != CONSTANT_BOX
    ]
    said += [f"VQA gains {_points_of(gain)} over {_the(than)}" for than, gain in one.vqa_gains.items()]
    if not any(title in one.gains for title in PROBES.values()):
        said.append("not probed with blanked or shuffled images: a prior that reads the question would pass for an eye")
    if expected.low is None:
        said.append(f"peers cannot tell what to expect: {expected.why}")
    if (boxes := one.boxes) is not None:
        if boxes.invalid_rate > _MOST_INVALID:
            said.append(f"{boxes.invalid_rate:.0%} of the answers are no box: a matter of format before one of sight")
        if boxes.diversity < LOW_DIVERSITY:
            said.append(
                f"boxes hardly vary: {boxes.entropy_bits:.1f} bits, the true ones {boxes.true_entropy_bits:.1f}; "
                f"{boxes.commonest_share:.0%} are one and the same"
            )
    return said + _about_losses(one, signs)


def _about_losses(one: Signs, signs: Sequence[Signs]) -> list[str]:
    if one.losses is None:
        return []
    said = [f"training had {one.losses.spikes} spikes of its loss"] if one.losses.spikes else []
    others = [other.losses.final for other in signs if other.losses is not None and other.arm != one.arm]
    if others and one.losses.final > _HIGH_LOSS * float(np.median(others)):
        said.append(f"its loss ends at {one.losses.final:.3f}, that of its peers at {float(np.median(others)):.3f}")
    return said


def _points_of(gain: Gain) -> str:
    return f"{gain.value:.1f} points [{gain.low:.1f}, {gain.high:.1f}]"


def _the(than: str) -> str:
    return f"the {than}" if than == CONSTANT_BOX else f"the same model on {than}"
