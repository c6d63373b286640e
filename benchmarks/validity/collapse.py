"""How often the verdicts of `eyeswap.collapse.verdict` are right, on made-up arms whose truth is known.

    python -m benchmarks.validity.collapse 400

prints the table of ``docs/collapse.md``. A study has five healthy arms, whose localization follows their VQA score
with a scatter of two points, and one arm of each other kind. Questions about one image share its difficulty. What is
measured of an arm goes through the same functions as a run's files do.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.collapse.signs import CONSTANT_BOX, PROBES, Gain, Signs, describe_boxes, gain_of
from eyeswap.collapse.verdict import Verdict, judge
from eyeswap.results.averages import Piece

Floats = NDArray[np.float64]

# What an arm truly is, and the verdict that is right for it.
KINDS: dict[str, Verdict] = {
    "healthy": "healthy",
    "weak": "weak",  # locates, but 0.62 of what its VQA promises
    "one box": "collapsed",  # answers nearly always with one box
    "position prior": "collapsed",  # draws a fresh box from where boxes usually are
    "lucky": "collapsed",  # knows from the question alone where to guess: well above the best constant box
}
NUM_HEALTHY = 5
_CONSTANT, _CHANCE, _LUCKY = 0.06, 0.04, 0.16  # hit rates: best constant box, a drawn box, the reader of questions
_LEVEL, _SLOPE = 0.25, 0.015  # gain over the constant box at 60% VQA, and by a point of VQA
_SCATTER, _WEAK = 0.02, 0.62
_VQA_ERROR = 0.7  # points, of a measured VQA score
_SAME_GUESS = 0.9  # how often the reader of questions says the same of another image


@dataclass(frozen=True)
class Setting:
    """What a study has at hand.

    Attributes:
        num_examples: localization questions.
        probed: whether images were blanked and shuffled, for a quarter of the questions.
        with_peers: whether arms are judged together, or each alone.
    """

    num_examples: int
    probed: bool
    with_peers: bool


SETTINGS = tuple(
    Setting(num_examples, probed, with_peers)
    for with_peers in (True, False)
    for probed in (True, False)
    for num_examples in (200, 800, 3200)
)


def simulate_study(setting: Setting, generator: np.random.Generator) -> list[tuple[str, Signs]]:
    """Make up the arms of one study; return the kind of each with its signs."""
    kinds = ["healthy"] * NUM_HEALTHY + [kind for kind in KINDS if kind != "healthy"]
    images = np.sort(generator.integers(0, max(2, setting.num_examples // 3), setting.num_examples))
    hardness = generator.uniform(-0.5, 0.5, images.max() + 1)[images]
    return [
        (kind, _arm(f"{kind}-{number}", kind, setting, images, hardness, generator))
        for number, kind in enumerate(kinds)
    ]


def try_setting(setting: Setting, num_studies: int = 100, seed: int = 0) -> dict[str, Counter[Verdict]]:
    """Judge many made-up studies; return the verdicts of each kind of arm."""
    generator = np.random.default_rng([seed, setting.num_examples, setting.probed, setting.with_peers])
    found: dict[str, Counter[Verdict]] = {kind: Counter() for kind in KINDS}
    for _ in range(num_studies):
        arms = simulate_study(setting, generator)
        groups = [arms] if setting.with_peers else [[arm] for arm in arms]
        for group in groups:
            for (kind, _), diagnosis in zip(group, judge([signs for _, signs in group]), strict=True):
                found[kind][diagnosis.verdict] += 1
    return found


def _arm(
    name: str, kind: str, setting: Setting, images: NDArray[Any], hardness: Floats, generator: np.random.Generator
) -> Signs:
    """Make up one arm's answers and measure them."""
    n = len(images)
    vqa = generator.uniform(55, 65)
    gain = _LEVEL + _SLOPE * (vqa - 60) + generator.normal(0, _SCATTER)
    chance = {"healthy": _CONSTANT + gain, "weak": _CONSTANT + _WEAK * gain, "lucky": _LUCKY}.get(kind, _CHANCE)
    hits = generator.random(n) < np.clip(chance * (1 + hardness), 0, 1)
    constant = generator.random(n) < _CONSTANT
    if kind == "one box":
        hits = np.where(generator.random(n) < 0.9, constant, hits)
    without = {"lucky": np.where(generator.random(n) < _SAME_GUESS, hits, generator.random(n) < _LUCKY)}.get(
        kind, generator.random(n) < _CHANCE
    )
    names = images.astype(np.str_)
    gains = {CONSTANT_BOX: _gain(hits, constant, names)}
    if setting.probed:
        part = slice(0, max(20, n // 4))
        gains |= {title: _gain(hits[part], without[part], names[part]) for title in PROBES.values()}
    return Signs(
        run=f"{name}/seed-7",
        arm=name,
        seed=7,
        vqa=float(vqa + generator.normal(0, _VQA_ERROR)),
        localization=float(100 * hits.mean()),
        gains=gains,
        vqa_gains={},
        boxes=describe_boxes(_boxes(kind, n, generator), _boxes("truth", n, generator), n),
        losses=None,
    )


def _gain(scores: NDArray[Any], others: NDArray[Any], images: NDArray[np.str_]) -> Gain:
    return gain_of([Piece(len(scores), scores.astype(np.float64), others.astype(np.float64), images)])


def _boxes(kind: str, n: int, generator: np.random.Generator) -> list[list[float]]:
    """Draw ``n`` boxes ``[n, 4]``; of the kind "one box", nine in ten are the same."""
    centres, halves = generator.uniform(0.2, 0.8, (n, 2)), generator.uniform(0.05, 0.2, (n, 2))
    boxes = np.hstack([centres - halves, centres + halves])
    if kind == "one box":
        boxes[generator.random(n) < 0.9] = (0.25, 0.25, 0.75, 0.75)
    return [[float(side) for side in box] for box in boxes]


def rows(num_studies: int, settings: Sequence[Setting] = SETTINGS) -> Iterator[str]:
    """Yield the lines of the table in ``docs/collapse.md``."""
    yield "| examples | probed | peers | " + " | ".join(KINDS) + " | healthy called collapsed |"
    yield "|--:|---|---|" + "--:|" * (len(KINDS) + 1)
    for setting in settings:
        found = try_setting(setting, num_studies)
        cells = []
        for kind, right in KINDS.items():
            total = sum(found[kind].values())
            cells.append(f"{100 * found[kind][right] / total:.0f} ({100 * found[kind]['cannot tell'] / total:.0f})")
        alarms = 100 * found["healthy"]["collapsed"] / sum(found["healthy"].values())
        said = ["yes" if one else "no" for one in (setting.probed, setting.with_peers)]
        yield f"| {setting.num_examples:,} | {' | '.join(said)} | {' | '.join(cells)} | {alarms:.1f} |"


def main(num_studies: int) -> None:
    """Print the table."""
    for row in rows(num_studies):
        print(row, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
