"""The signs of localization collapse in one run: gains, box statistics, alternative readings, training losses.

Scores are in percent, gains in percentage points. A gain is a paired difference on the same examples with an interval
that resamples images: over the best constant box, and over the same model with blanked or shuffled images
(`eyeswap eval RUN --images ...`), which measures what the image contributes. Everything is measured for each benchmark
and for all benchmarks together.
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
MATERIAL = 1.1  # a reading is kept if it scores at least this many times the score that counts
_CELLS = 8  # bins along each axis for the centre of a box
_SIZES = np.array([1 / 64, 1 / 16, 1 / 4])  # areas relative to the image that separate four bins of sizes
_RECENT, _JUMP, _WARM_UP = 50, 2.0, 0.1  # a spike: twice the median of the 50 steps before, after a tenth of training


@dataclass(frozen=True)
class Gain:
    """A paired difference of two scores on the same examples, with its 95% interval.

    Attributes:
        value: difference, points.
        low: lower end of the interval.
        high: upper end.
        n: number of examples.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Boxes:
    """Statistics of predicted boxes.

    Attributes:
        n: number of answers.
        invalid_rate: share of the answers that are not boxes.
        commonest_share: share of the most frequent box among the boxes.
        entropy_bits: entropy of the boxes over 8 x 8 bins of the centre and 4 bins of size.
        true_entropy_bits: the same of the ground-truth boxes.
    """

    n: int
    invalid_rate: float
    commonest_share: float
    entropy_bits: float
    true_entropy_bits: float

    @property
    def diversity(self) -> float:
        """Entropy relative to that of the ground-truth boxes; 0 for one constant box."""
        return self.entropy_bits / self.true_entropy_bits if self.true_entropy_bits else 1.0


@dataclass(frozen=True)
class Reading:
    """The same answers under another reading.

    Attributes:
        score: score, percent.
        lead: gain over the score that counts.
        gains: see `Located`.
    """

    score: float
    lead: Gain
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class Located:
    """Measurements of the answers to one benchmark, or to all of them together.

    Attributes:
        title: name of the benchmark, or `LOCALIZATION`.
        score: score, percent.
        gains: reference to the gain over it: `CONSTANT_BOX` and, if probed, the titles in `PROBES`.
        boxes: statistics of the boxes.
        readings: key of `FRAMES`, or `TRUE_SIZES`, to readings that score at least `MATERIAL` times as much.
    """

    title: str
    score: float
    gains: Mapping[str, Gain]
    boxes: Boxes
    readings: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Losses:
    """Statistics of the training loss.

    Attributes:
        final: mean loss over the last tenth of the steps.
        spikes: number of steps after the first tenth whose loss is more than twice the median of the 50 steps before.
        num_steps: number of steps.
    """

    final: float
    spikes: int
    num_steps: int


@dataclass(frozen=True)
class Signs:
    """Measurements of one run.

    Attributes:
        run: the run's name, ``arm/seed-n``.
        arm: the run's arm.
        seed: the run's seed.
        vqa: weighted VQA score, percent; None if it was not asked.
        localization: weighted localization score, percent; None if it was not asked.
        gains: see `Located`, for all box benchmarks together; empty if there are none.
        vqa_gains: probe title to the gain in VQA.
        boxes: box statistics over all benchmarks; None without localization answers.
        losses: loss statistics; None without a training log.
        readings: see `Located`, for all benchmarks together.
        benchmarks: measurements of each box benchmark, by short name.
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
        """All benchmarks together as `LOCALIZATION` and, if there are several, each of them; empty without boxes."""
        if self.localization is None or self.boxes is None:
            return {}
        together = Located(LOCALIZATION, self.localization, self.gains, self.boxes, self.readings)
        return {LOCALIZATION: together, **(self.benchmarks if len(self.benchmarks) > 1 else {})}


@dataclass(frozen=True)
class Probed:
    """The answers to one benchmark, and the same model's answers to part of it with blanked or shuffled images.

    Attributes:
        answers: the answers to all examples.
        without: probe title to (answers without the right image, answers with it), on the same examples.
    """

    answers: Answers
    without: Mapping[str, tuple[Answers, Answers]]


def measure_run(run: Run) -> Signs:
    """Measure a finished run, with the probes in its ``evaluations``.

    Raises:
        DataError: if a file is missing or damaged.
    """
    vqa, localization = ([each for each in run.predictions if each.group == group] for group in averages.GROUPS)
    probes = {title: list(_probes(run, probe)) for probe, title in PROBES.items()}
    boxed = [_probed(predictions, probes) for predictions in localization if predictions.iou_threshold is not None]
    together = locate(LOCALIZATION, boxed) if boxed else None
    return Signs(
        run=run.name,
        arm=run.arm,
        seed=run.seed,
        vqa=_score([piece for predictions in vqa for piece in predictions.pieces()]),
        localization=_score([piece for predictions in localization for piece in predictions.pieces()]),
        gains=together.gains if together else {},
        vqa_gains={title: gain_of(pieces) for title, folders in probes.items() if (pieces := _pieces(vqa, folders))},
        boxes=together.boxes if together else None,
        losses=describe_losses([row["loss"] for row in run.training_rows]),
        readings=together.readings if together else {},
        benchmarks={probed.answers.name: locate(probed.answers.title, [probed]) for probed in boxed},
    )


def locate(title: str, benchmarks: Sequence[Probed]) -> Located:
    """Measure the answers to some benchmarks together."""
    boxes = np.concatenate([probed.answers.box for probed in benchmarks])
    truth = np.concatenate([probed.answers.truth for probed in benchmarks])
    frames = [frame for frame in FRAMES if any(frame in probed.answers.frames for probed in benchmarks)]
    readings = {name: reading for name in [*frames, TRUE_SIZES] if (reading := _reading(name, benchmarks)) is not None}
    return Located(
        title=title,
        score=100 * averages.average(_over_constant_box(benchmarks)).value,
        gains=_gains(benchmarks),
        boxes=describe_boxes(boxes[~np.isnan(boxes[:, 0])], truth, len(truth)),
        readings=readings,
    )


def gain_of(parts: Sequence[Piece]) -> Gain:
    """Return the paired difference between the scores of some pieces and their baselines, in points."""
    points = averages.gain(parts).times(100)
    return Gain(points.value, points.low, points.high, sum(len(part.image) for part in parts))


def describe_boxes(boxes: Sequence[Sequence[float]] | Floats, true_boxes: Sequence[Any] | Floats, n: int) -> Boxes:
    """Return the statistics of predicted boxes.

    Args:
        boxes: ``[k, 4]``, ``(x1, y1, x2, y2)`` in 0..1 of the image; valid answers only.
        true_boxes: ``[n, 4]`` ground truth.
        n: number of answers, valid or not.
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
    """Return the entropy in bits of boxes ``[n, 4]`` over bins of centre and size; 0 without boxes."""
    if not len(boxes):
        return 0.0
    centres = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2, 0, 1 - 1e-9)
    columns, rows = (centres * _CELLS).astype(int).T
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, 1), axis=1)
    cells = (rows * _CELLS + columns) * (len(_SIZES) + 1) + np.searchsorted(_SIZES, areas)
    shares = np.unique(cells, return_counts=True)[1] / len(boxes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def describe_losses(losses: Sequence[float]) -> Losses | None:
    """Return the statistics of a training loss; None without steps."""
    values = np.asarray(losses, dtype=np.float64)
    if not len(values):
        return None
    begin = max(_RECENT, int(_WARM_UP * len(values)))
    spikes = sum(values[step] > _JUMP * np.median(values[step - _RECENT : step]) for step in range(begin, len(values)))
    return Losses(float(values[-max(1, len(values) // 10) :].mean()), int(spikes), len(values))


def _score(parts: Sequence[Piece]) -> float | None:
    return 100 * averages.average(parts).value if parts else None


def _over_constant_box(benchmarks: Sequence[Probed]) -> list[Piece]:
    return [piece for probed in benchmarks for piece in probed.answers.pieces(probed.answers.constant)]


def _gains(benchmarks: Sequence[Probed]) -> dict[str, Gain]:
    """Return the gains over the best constant box and over the probes, for some benchmarks together."""
    gains = {CONSTANT_BOX: gain_of(_over_constant_box(benchmarks))}
    for title in PROBES.values():
        pairs = [probed.without[title] for probed in benchmarks if title in probed.without]
        if pairs:
            gains[title] = gain_of([piece for blind, seeing in pairs for piece in seeing.pieces(blind.score)])
    return gains


def _reading(name: str, benchmarks: Sequence[Probed]) -> Reading | None:
    """Measure answers under another reading; None if it is not materially better than the one that counts."""
    lead = [
        piece
        for probed in benchmarks
        for piece in replace(probed.answers, score=probed.answers.scores(name)).pieces(probed.answers.score)
    ]
    counted = sum(piece.weight * float(piece.baseline.mean()) for piece in lead)
    read = sum(piece.weight * float(piece.score.mean()) for piece in lead)
    if read == 0 or read < MATERIAL * counted:
        return None
    gains = _gains([_read(probed, name) for probed in benchmarks])
    return Reading(100 * averages.average(lead).value, gain_of(lead), gains)


def _read(probed: Probed, name: str) -> Probed:
    """Return answers and probes under another reading, as far as each has it."""
    answers = probed.answers
    without = {
        title: (replace(blind, score=blind.scores(name)), replace(seeing, score=seeing.scores(name)))
        for title, (blind, seeing) in probed.without.items()
    }
    return Probed(replace(answers, score=answers.scores(name), constant=answers.baseline(name)), without)


def _probes(run: Run, probe: str) -> Iterator[dict[str, Predictions]]:
    """Yield the predictions of each finished evaluation with a kind of images, by benchmark."""
    for evaluation in run.evaluations:
        if evaluation.evaluation is not None and evaluation.evaluation.images == probe:
            yield {predictions.name: predictions for predictions in evaluation.predictions}


def _joined(predictions: Predictions, evaluations: Sequence[Mapping[str, Predictions]]) -> Joined | None:
    """Join a benchmark with the largest of its probes; None if it was not probed."""
    name = predictions.name
    joins = [join(evaluation[name], predictions) for evaluation in evaluations if name in evaluation]
    return max(joins, key=lambda joined: len(joined.rows), default=None)


def _pieces(benchmarks: Sequence[Predictions], evaluations: Sequence[Mapping[str, Predictions]]) -> list[Piece]:
    joins = [_joined(predictions, evaluations) for predictions in benchmarks]
    return [piece for joined in joins if joined is not None for piece in joined.pieces]


def _probed(predictions: Predictions, probes: Mapping[str, Sequence[Mapping[str, Predictions]]]) -> Probed:
    answers, without = Answers.of(predictions), {}
    for title, evaluations in probes.items():
        joined = _joined(predictions, evaluations)
        if joined is not None:
            blind_rows, rows = joined.rows.T
            without[title] = (Answers.of(joined.first).take(blind_rows), answers.take(rows))
    return Probed(answers, without)
