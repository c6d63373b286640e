"""The signs of a localization collapse in one run, measured from its folder: gains, boxes, other readings, losses.

All scores and gains are percent and percentage points. A gain is a paired difference on the same examples with an
interval that resamples images: over the best constant box, and over the same model shown blanked or shuffled images
(`eyeswap eval RUN --images ...`), which is what the image itself is worth. Everything is measured of each benchmark and
of all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eyeswap.collapse.answers import FRAMES, TRUE_SIZES, Answers, Floats
from eyeswap.results import averages
from eyeswap.results.averages import Piece
from eyeswap.results.compare import Joined, join
from eyeswap.results.run import Run
from eyeswap.results.scores import Predictions

CONSTANT_BOX = "best constant box"
PROBES = {"blanked": "blanked images", "shuffled": "shuffled images"}
LOCALIZATION = "localization"  # all benchmarks together
MATERIAL = 1.1  # times as much as the score that counts, for another reading to be kept
_CELLS = 8  # along each axis, for the centre of a box
_SIZES = np.array([1 / 64, 1 / 16, 1 / 4])  # shares of the image that part boxes into four sizes
_RECENT, _JUMP, _WARM_UP = 50, 2.0, 0.1


@dataclass(frozen=True)
class Gain:
    """By how many points one score lies above another on the same examples, with its paired 95% interval.

    Attributes:
        value: points.
        low: lower end.
        high: upper end.
        n: examples.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Boxes:
    """What the predicted boxes look like together.

    Attributes:
        n: answers.
        invalid_rate: share of the answers that are no box.
        commonest_share: share of the boxes that are the most frequent one.
        entropy_bits: of the boxes over 8 x 8 places of the centre and 4 sizes.
        true_entropy_bits: of the true boxes of the same examples.
    """

    n: int
    invalid_rate: float
    commonest_share: float
    entropy_bits: float
    true_entropy_bits: float

    @property
    def diversity(self) -> float:
        """Entropy as a share of that of the true boxes; 0 for one constant box."""
        return self.entropy_bits / self.true_entropy_bits if self.true_entropy_bits else 1.0


@dataclass(frozen=True)
class Reading:
    """The same answers, read in another way.

    Attributes:
        score: percent.
        lead: over the score that counts.
        gains: as those of `Located`.
    """

    score: float
    lead: Gain
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class Located:
    """What was measured of the answers to one benchmark, or to all of them together.

    Attributes:
        title: name of the benchmark, or `LOCALIZATION`.
        score: percent.
        gains: what the score is compared with to the gain; `CONSTANT_BOX` and, where probed, `PROBES`.
        boxes: what they look like.
        readings: key of `FRAMES`, or `TRUE_SIZES`, to readings that score at least `MATERIAL` times as much.
    """

    title: str
    score: float
    gains: Mapping[str, Gain]
    boxes: Boxes
    readings: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Losses:
    """How training went.

    Attributes:
        final: mean loss over the last tenth of the steps.
        spikes: steps after the first tenth whose loss is over twice the median of the 50 before.
        num_steps: steps taken.
    """

    final: float
    spikes: int
    num_steps: int


@dataclass(frozen=True)
class Signs:
    """What was measured of one run.

    Attributes:
        run: its name, ``arm/seed-n``.
        arm: its arm.
        seed: its seed.
        vqa: weighted VQA score, percent; None if it was not asked.
        localization: weighted localization score, percent; None if it was not asked.
        gains: as those of `Located`, of all benchmarks that ask for boxes together; empty if there is none.
        vqa_gains: VQA: `PROBES` to the gain.
        boxes: those of all benchmarks together; None without localization answers.
        losses: None without a training log.
        readings: as those of `Located`, of all benchmarks together.
        benchmarks: short name to what was measured of each benchmark that asks for boxes.
    """

    run: str
    arm: str
    seed: int
    vqa: float | None
    localization: float | None
    gains: Mapping[str, Gain]
    vqa_gains: Mapping[str, Gain]
    boxes: Boxes | None
    losses: Losses | None
    readings: Mapping[str, Reading] = field(default_factory=dict)
    benchmarks: Mapping[str, Located] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Located]:
        """All benchmarks together under `LOCALIZATION` and, where there are several, each; empty without boxes."""
        if self.localization is None or self.boxes is None:
            return {}
        together = Located(LOCALIZATION, self.localization, self.gains, self.boxes, self.readings)
        return {LOCALIZATION: together, **(self.benchmarks if len(self.benchmarks) > 1 else {})}


@dataclass(frozen=True)
class Probed:
    """The answers to one benchmark, and those that the same model gave to a part of it about other images.

    Attributes:
        answers: to all examples.
        without: title of the probe to (the answers about other images, those about the right ones), row by row.
    """

    answers: Answers
    without: Mapping[str, tuple[Answers, Answers]]


def measure_run(run: Run) -> Signs:
    """Measure a finished run, with whatever probes lie in its ``evaluations``.

    Raises:
        DataError: if a file is missing or damaged.
    """
    vqa, localization = ([one for one in run.predictions if one.group == group] for group in averages.GROUPS)
    probes = {title: list(_probes(run, probe)) for probe, title in PROBES.items()}
    boxed = [_probed(one, probes) for one in localization if one.iou_threshold is not None]
    together = locate(LOCALIZATION, boxed) if boxed else None
    return Signs(
        run=run.name,
        arm=run.arm,
        seed=run.seed,
        vqa=_score([piece for one in vqa for piece in one.pieces()]),
        localization=_score([piece for one in localization for piece in one.pieces()]),
        gains=together.gains if together else {},
        vqa_gains={title: gain_of(pieces) for title, folders in probes.items() if (pieces := _pieces(vqa, folders))},
        boxes=together.boxes if together else None,
        losses=describe_losses([row["loss"] for row in run.training_rows]),
        readings=together.readings if together else {},
        benchmarks={one.answers.name: locate(one.answers.title, [one]) for one in boxed},
    )


def locate(title: str, those: Sequence[Probed]) -> Located:
    """Measure the answers to some benchmarks together."""
    boxes = np.concatenate([one.answers.box for one in those])
    truth = np.concatenate([one.answers.truth for one in those])
    readings = [*(frame for frame in FRAMES if any(frame in one.answers.frames for one in those)), TRUE_SIZES]
    found = {name: reading for name in readings if (reading := _reading(name, those)) is not None}
    return Located(
        title=title,
        score=100 * averages.average(_over_constant_box(those)).value,
        gains=_gains(those),
        boxes=describe_boxes(boxes[~np.isnan(boxes[:, 0])], truth, len(truth)),
        readings=found,
    )


def gain_of(parts: Sequence[Piece]) -> Gain:
    """Return by how much the scores of some pieces lie above their baselines, in points."""
    found = averages.gain(parts)
    return Gain(100 * found.value, 100 * found.low, 100 * found.high, sum(len(part.image) for part in parts))


def describe_boxes(boxes: Sequence[Sequence[float]] | Floats, true_boxes: Sequence[Any] | Floats, n: int) -> Boxes:
    """Describe predicted boxes.

    Args:
        boxes: ``[k, 4]``, ``(x1, y1, x2, y2)`` in 0..1 of the image; the valid answers alone.
        true_boxes: ``[n, 4]``.
        n: answers, valid or not.
    """
    rounded = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).round(2)
    commonest = int(np.unique(rounded, axis=0, return_counts=True)[1].max()) if len(rounded) else 0
    return Boxes(
        n=n,
        invalid_rate=1 - len(rounded) / n,
        commonest_share=commonest / len(rounded) if len(rounded) else 0.0,
        entropy_bits=box_entropy(rounded),
        true_entropy_bits=box_entropy(np.asarray(true_boxes, dtype=np.float64).reshape(-1, 4)),
    )


def box_entropy(boxes: Floats) -> float:
    """Return the entropy in bits of boxes ``[n, 4]`` over places of their centre and sizes; 0 for none."""
    if not len(boxes):
        return 0.0
    centres = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2, 0, 1 - 1e-9)
    columns, rows = (centres * _CELLS).astype(int).T
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, 1), axis=1)
    cells = (rows * _CELLS + columns) * (len(_SIZES) + 1) + np.searchsorted(_SIZES, areas)
    shares = np.unique(cells, return_counts=True)[1] / len(boxes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def describe_losses(losses: Sequence[float]) -> Losses | None:
    """Describe a training log; None if it is empty."""
    values = np.asarray(losses, dtype=np.float64)
    if not len(values):
        return None
    begin = max(_RECENT, int(_WARM_UP * len(values)))
    spikes = sum(values[step] > _JUMP * np.median(values[step - _RECENT : step]) for step in range(begin, len(values)))
    return Losses(float(values[-max(1, len(values) // 10) :].mean()), int(spikes), len(values))


def _score(parts: Sequence[Piece]) -> float | None:
    return 100 * averages.average(parts).value if parts else None


def _over_constant_box(those: Sequence[Probed]) -> list[Piece]:
    return [piece for one in those for piece in one.answers.pieces(one.answers.constant)]


def _gains(those: Sequence[Probed]) -> dict[str, Gain]:
    """Return the gains over the best constant box and over the probes of some benchmarks together."""
    gains = {CONSTANT_BOX: gain_of(_over_constant_box(those))}
    for title in PROBES.values():
        pairs = [one.without[title] for one in those if title in one.without]
        if pairs:
            gains[title] = gain_of([piece for other, own in pairs for piece in own.pieces(other.score)])
    return gains


def _reading(name: str, those: Sequence[Probed]) -> Reading | None:
    """Measure answers in another reading; None if it is not materially better than the one that counts."""
    lead = [
        piece
        for one in those
        for piece in replace(one.answers, score=one.answers.scores(name)).pieces(one.answers.score)
    ]
    before, after = (
        sum(piece.weight * float(scores.mean()) for piece, scores in pairs)
        for pairs in ([(piece, piece.baseline) for piece in lead], [(piece, piece.score) for piece in lead])
    )
    if after == 0 or after < MATERIAL * before:
        return None
    gains = _gains([_read(one, name) for one in those])
    return Reading(100 * averages.average(lead).value, gain_of(lead), gains)


def _read(one: Probed, name: str) -> Probed:
    """Return answers and probes in another reading, as far as each has it."""
    own = replace(one.answers, score=one.answers.scores(name), constant=one.answers.baseline(name))
    without = {
        title: (replace(other, score=other.scores(name)), replace(part, score=part.scores(name)))
        for title, (other, part) in one.without.items()
    }
    return Probed(own, without)


def _probes(run: Run, probe: str) -> Iterator[dict[str, Predictions]]:
    """Yield the predictions of each finished evaluation of a kind of images, by benchmark."""
    for evaluation in run.evaluations:
        if evaluation.evaluation is not None and evaluation.evaluation.images == probe:
            yield {one.name: one for one in evaluation.predictions}


def _joined(one: Predictions, folders: Sequence[Mapping[str, Predictions]]) -> Joined | None:
    """Join a benchmark with the largest of its probes."""
    found = [join(folder[one.name], one) for folder in folders if one.name in folder]
    return max(found, key=lambda joined: len(joined.rows), default=None)


def _pieces(those: Sequence[Predictions], folders: Sequence[Mapping[str, Predictions]]) -> list[Piece]:
    found = [_joined(one, folders) for one in those]
    return [piece for joined in found if joined is not None for piece in joined.pieces]


def _probed(one: Predictions, probes: Mapping[str, Sequence[Mapping[str, Predictions]]]) -> Probed:
    answers, without = Answers.of(one), {}
    for title, folders in probes.items():
        joined = _joined(one, folders)
        if joined is not None:
            before, after = joined.rows.T
            without[title] = (Answers.of(joined.first).take(before), answers.take(after))
    return Probed(answers, without)
