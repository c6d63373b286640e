"""Accuracy of the verdicts of `eyeswap.collapse.verdict` on simulated arms of known kind.

    python -m benchmarks.validity.collapse 100

prints the table of ``docs/collapse.md``. A study has five healthy arms, whose localization follows their VQA score with
some scatter, and one arm of another kind. Each answers four benchmarks with boxes; the ground truth has the box sizes
of RefCOCO and OCID-Ref on images of COCO's shapes. Questions about one image share its difficulty. Boxes are scored and
measured by the same functions as those of real runs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.collapse.answers import Answers
from eyeswap.collapse.signs import CONSTANT_BOX, LOCALIZATION, PROBES, Located, Probed, Signs, locate
from eyeswap.collapse.verdict import Verdict, judge
from eyeswap.evaluation.baselines import best_constant_box
from eyeswap.geometry import Frame, ImageGeometry

Floats = NDArray[np.float64]
Arm = tuple[str, Signs]  # its kind, and its measurements

# The kinds of arms, and the verdicts that are correct for them.
KINDS: dict[str, tuple[Verdict, ...]] = {
    "healthy": ("healthy",),
    "weak": ("weak",),  # locates 0.62 times as many objects as its VQA score predicts
    "one box": ("collapsed",),  # answers nine times in ten with the same box, otherwise with one from the prior
    "71% one box": ("weak", "collapsed"),  # the other answers are those of a healthy arm
    "one benchmark": ("collapsed",),  # "one box" in OCID-Ref, healthy elsewhere
    "position prior": ("collapsed",),  # draws boxes from the prior of positions
    "lucky": ("collapsed",),  # guesses from the question alone, well above the best constant box
    "canvas": ("wrong frame",),  # healthy in fractions of its canvas, 800 x 1333, small images not enlarged
    "padded square": ("wrong frame",),  # healthy in fractions of the padded square
    "loose": ("loose boxes",),  # healthy centres, boxes 1.75 times too large
}
NUM_HEALTHY = 5
SHAPES = ((640, 480), (480, 640), (500, 375), (640, 427))
GEOMETRIES = {
    "canvas": ImageGeometry(strategy="corner-letterbox", canvas=(800, 1333), enlarge=False),
    "padded-square": ImageGeometry(strategy="letterbox", canvas=(224, 224)),
}
# Threshold of the IoU, and the smallest and largest side of a ground-truth box: a median of 10% and 2% of the image.
BENCHMARKS = {
    "refcoco": (0.5, 0.12, 0.52),
    "refcoco+": (0.5, 0.12, 0.52),
    "refcocog": (0.5, 0.12, 0.52),
    "ocid-ref": (0.25, 0.08, 0.20),
}
_LEVEL, _SLOPE = 0.33, 0.015  # share of objects found at 60% VQA, and its increase per point of VQA
_WEAK, _LUCKY, _MOSTLY, _LARGE = 0.62, 0.18, 0.71, 1.75
_SCATTER = {"close": 0.02, "scattered": 0.06, "none": 0.02}  # of arms around their line; half as much per benchmark
_EDGE = 0.06  # error of an edge, relative to the side of the box
_VQA_ERROR = 0.7  # standard error of a measured VQA score, points
_SAME_GUESS = 0.9  # how often a "lucky" arm gives the same answer about another image


@dataclass(frozen=True)
class Setting:
    """The circumstances of a study.

    Attributes:
        num_examples: number of questions in each of the four benchmarks.
        probed: whether a quarter of the questions were asked again with blanked and shuffled images.
        peers: whether arms lie close to their line or scattered; ``none`` if they lie close and each is judged alone.
    """

    num_examples: int
    probed: bool
    peers: str


SETTINGS = tuple(
    Setting(num_examples, probed, peers)
    for peers in ("close", "scattered", "none")
    for probed in (True, False)
    for num_examples in (50, 200, 800)
)


@dataclass(frozen=True)
class Asked:
    """The questions of one benchmark; ``n`` examples, boxes in 0..1 of the original image.

    Attributes:
        name: the benchmark.
        image: ``[n]`` index of each example's image.
        shape: ``[n]`` index of the image's shape in `SHAPES`.
        hardness: ``[n]`` effect of the image on the share of objects found, -0.5 to 0.5.
        truth: ``[n, 4]`` ground-truth boxes.
    """

    name: str
    image: NDArray[np.int64]
    shape: NDArray[np.int64]
    hardness: Floats
    truth: Floats


@cache
def simulate(num_examples: int, scatter: float, num_studies: int, seed: int) -> list[list[Arm]]:
    """Simulate studies of healthy arms and one arm of each other kind, all probed."""
    generator = np.random.default_rng([seed, num_examples, round(1000 * scatter)])
    kinds = ["healthy"] * NUM_HEALTHY + [kind for kind in KINDS if kind != "healthy"]
    studies = []
    for _ in range(num_studies):
        asked = [_ask(name, num_examples, generator) for name in BENCHMARKS]
        arms = [(kind, _arm(f"{kind}-{n}", kind, scatter, asked, generator)) for n, kind in enumerate(kinds)]
        studies.append(arms)
    return studies


def try_setting(
    setting: Setting,
    num_studies: int = 100,
    seed: int = 0,
    verdicts: Callable[[Sequence[Signs]], Sequence[Verdict]] | None = None,
) -> dict[str, Counter[Verdict]]:
    """Judge many simulated studies; return the verdicts on each kind of arm.

    Args:
        setting: the circumstances of the studies.
        num_studies: number of studies.
        seed: random seed.
        verdicts: the function that judges the arms of a study; `judge` by default.
    """
    counts: dict[str, Counter[Verdict]] = {kind: Counter() for kind in KINDS}
    for arms in simulate(setting.num_examples, _SCATTER[setting.peers], num_studies, seed):
        for group in _studies(arms, setting.peers):
            signs = [of_arm if setting.probed else _unprobed(of_arm) for _, of_arm in group]
            judged = verdicts(signs) if verdicts else [diagnosis.verdict for diagnosis in judge(signs)]
            for (kind, _), verdict in zip(group, judged, strict=True):
                counts[kind][verdict] += 1
    return counts


def _studies(arms: Sequence[Arm], peers: str) -> list[Sequence[Arm]]:
    """Return the groups in which arms are judged: each alone, or each other kind with the healthy ones."""
    if peers == "none":
        return [[arm] for arm in arms]
    return [[*arms[:NUM_HEALTHY], other] for other in arms[NUM_HEALTHY:]]


def _unprobed(signs: Signs) -> Signs:
    """Return the measurements of a run without its probes."""
    parts = {name: replace(part, **_without_probes(part)) for name, part in signs.benchmarks.items()}
    return replace(signs, benchmarks=parts, **_without_probes(signs))


def _without_probes(part: Signs | Located) -> dict[str, Any]:
    gains = {CONSTANT_BOX: part.gains[CONSTANT_BOX]}
    readings = {
        name: replace(reading, gains={CONSTANT_BOX: reading.gains[CONSTANT_BOX]})
        for name, reading in part.readings.items()
    }
    return {"gains": gains, "readings": readings}


def _ask(name: str, n: int, generator: np.random.Generator) -> Asked:
    image = np.sort(generator.integers(0, max(2, n // 3), n))
    shape, hardness = generator.integers(0, len(SHAPES), n), generator.uniform(-0.5, 0.5, n)
    return Asked(name, image, shape[image], hardness[image], _prior(name, n, generator))


def _prior(name: str, n: int, generator: np.random.Generator) -> Floats:
    """Draw boxes ``[n, 4]`` from a benchmark's prior of sizes and positions."""
    _, smallest, largest = BENCHMARKS[name]
    sides = generator.uniform(smallest, largest, (n, 2))
    corners = generator.uniform(0, 1, (n, 2)) * (1 - sides)
    return np.hstack([corners, corners + sides])


@cache
def _constant_box(name: str) -> Floats:
    """Return the best constant box ``[4]`` of a benchmark's training split."""
    return np.array(best_constant_box(_prior(name, 1000, np.random.default_rng(0)), BENCHMARKS[name][0]))


def _arm(name: str, kind: str, scatter: float, asked: Sequence[Asked], generator: np.random.Generator) -> Signs:
    """Simulate one arm's answers and measure them."""
    vqa = generator.uniform(55, 65)
    ability = _LEVEL + _SLOPE * (vqa - 60) + generator.normal(0, scatter)
    boxed = [_answer_all(kind, part, ability + generator.normal(0, scatter / 2), generator) for part in asked]
    together = locate(LOCALIZATION, boxed)
    return Signs(
        run=f"{name}/seed-7",
        arm=name,
        seed=7,
        vqa=float(vqa + generator.normal(0, _VQA_ERROR)),
        localization=together.score,
        gains=together.gains,
        vqa_gains={},
        boxes=together.boxes,
        losses=None,
        readings=together.readings,
        benchmarks={probed.answers.name: locate(probed.answers.title, [probed]) for probed in boxed},
    )


def _answer_all(kind: str, asked: Asked, ability: float, generator: np.random.Generator) -> Probed:
    """Answer a benchmark, and a quarter of it with other images."""
    boxes = _answer(kind, asked, ability, generator)
    answers = _scored(kind, asked, boxes)
    rows = np.arange(max(5, len(boxes) // 4))
    without = {}
    for title in PROBES.values():
        other = _answer(kind, asked, 0.0, generator)
        same = (generator.random(len(boxes)) < _SAME_GUESS) & (kind == "lucky")
        without[title] = (
            _scored(kind, asked, np.where(same[:, None], boxes, other)).take(rows),
            answers.take(rows),
        )
    return Probed(answers, without)


def _answer(kind: str, asked: Asked, ability: float, generator: np.random.Generator) -> Floats:
    """Return the boxes ``[n, 4]`` that an arm means, in 0..1 of the original image.

    Args:
        kind: the arm's kind.
        asked: the questions.
        ability: share of objects that a healthy arm with its VQA score finds; 0 with other images.
        generator: source of random numbers.
    """
    n, is_stuck = len(asked.truth), kind == "one box" or (kind == "one benchmark" and asked.name == "ocid-ref")
    if is_stuck or kind == "position prior":
        ability = 0.0
    share_found = {"weak": _WEAK * ability, "lucky": _LUCKY}.get(kind, ability)
    sees = generator.random(n) < np.clip(share_found * (1 + asked.hardness), 0, 1)
    sides = asked.truth[:, 2:] - asked.truth[:, :2]
    seen = asked.truth + generator.normal(0, _EDGE, (n, 4)) * np.tile(sides, 2)
    boxes = np.where(sees[:, None], seen, _prior(asked.name, n, generator))
    repeats = generator.random(n) < (0.9 if is_stuck else _MOSTLY if kind == "71% one box" else 0.0)
    boxes = np.where(repeats[:, None], _constant_box(asked.name), boxes)
    if kind == "loose":
        centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, _LARGE * (boxes[:, 2:] - boxes[:, :2]) / 2
        boxes = np.hstack([centres - halves, centres + halves])
    return np.asarray(np.clip(boxes, 0, 1))


def _scored(kind: str, asked: Asked, boxes: Floats) -> Answers:
    """Write boxes with two decimals in the arm's frame, and score them in each frame."""
    written_in = {"canvas": "canvas", "padded square": "padded-square"}.get(kind, "original")
    written = _moved(boxes, asked.shape, written_in, "image-unit", "canvas-unit").round(2)
    threshold = BENCHMARKS[asked.name][0]
    read = {frame: _moved(written, asked.shape, frame, "canvas-unit", "image-unit") for frame in GEOMETRIES}
    frames = {frame: _right(box, asked.truth, threshold) for frame, box in {"original": written, **read}.items()}
    return Answers(
        name=asked.name,
        title=asked.name,
        threshold=threshold,
        image=np.char.add(f"{asked.name}-", asked.image.astype(np.str_)),
        subset=np.full(len(boxes), "val"),
        score=frames["original"],
        constant=_right(np.broadcast_to(_constant_box(asked.name), boxes.shape), asked.truth, threshold),
        box=written,
        truth=asked.truth,
        frames=frames,
    )


def _moved(boxes: Floats, shapes: NDArray[np.int64], frame: str, source: Frame, target: Frame) -> Floats:
    """Convert boxes ``[n, 4]`` between the original image and a frame."""
    if frame == "original":
        return boxes
    moved = np.empty_like(boxes)
    for number, shape in enumerate(SHAPES):
        rows = shapes == number
        x1, y1, x2, y2 = boxes[rows].T
        placement = GEOMETRIES[frame].placement(*shape)
        moved[rows] = np.stack(placement.convert((x1, y1, x2, y2), source, target), axis=1)
    return np.asarray(np.clip(moved, 0, 1))


def _right(boxes: Floats, truth: Floats, threshold: float) -> Floats:
    """Return which boxes ``[n, 4]`` reach the threshold of the IoU with the ground truth."""
    shared = np.clip(np.minimum(boxes, truth)[:, 2:] - np.maximum(boxes, truth)[:, :2], 0, None).prod(1)
    areas = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(1) for box in (boxes, truth)]
    return np.asarray(shared >= threshold * (areas[0] + areas[1] - shared), dtype=np.float64)


def shares(counts: Mapping[str, Counter[Verdict]], kind: str) -> tuple[float, float]:
    """Return the percentages of correct verdicts and of "cannot tell" for a kind of arm."""
    total = counts[kind].total()
    correct = sum(counts[kind][verdict] for verdict in KINDS[kind])
    return 100 * correct / total, 100 * counts[kind]["cannot tell"] / total


def rows(num_studies: int, settings: Sequence[Setting] = SETTINGS) -> Iterator[str]:
    """Yield the lines of the table in ``docs/collapse.md``."""
    yield "| examples | probed | peers | " + " | ".join(KINDS) + " | healthy called collapsed |"
    yield "|--:|---|---|" + "--:|" * (len(KINDS) + 1)
    for setting in settings:
        counts = try_setting(setting, num_studies)
        cells = ["{:.0f} ({:.0f})".format(*shares(counts, kind)) for kind in KINDS]
        alarms = 100 * counts["healthy"]["collapsed"] / counts["healthy"].total()
        circumstances = ["yes" if setting.probed else "no", setting.peers]
        yield f"| {setting.num_examples:,} | {' | '.join(circumstances)} | {' | '.join(cells)} | {alarms:.1f} |"


def main(num_studies: int) -> None:
    """Print the table."""
    for row in rows(num_studies):
        print(row, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
