"""The signs of a localization collapse in one run, measured from its folder: gains, boxes, losses.

All scores and gains are percent and percentage points. A gain is a paired difference on the same examples with an
interval that resamples images: over the best constant box, and over the same model shown blanked or shuffled images
(`eyeswap eval RUN --images ...`), which is what the image itself is worth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eyeswap.errors import DataError
from eyeswap.evaluation.baselines import best_constant_box
from eyeswap.evaluation.boxes import iou_matrix
from eyeswap.results import averages
from eyeswap.results.averages import Piece
from eyeswap.results.compare import join
from eyeswap.results.run import Run
from eyeswap.results.scores import Predictions

Floats = NDArray[np.float64]

CONSTANT_BOX = "best constant box"
PROBES = {"blanked": "blanked images", "shuffled": "shuffled images"}
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
        gains: localization: what it is compared with to the gain; `CONSTANT_BOX` and, where probed, `PROBES`.
        vqa_gains: the same for VQA; probes alone.
        boxes: None without localization answers.
        losses: None without a training log.
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


def measure_run(run: Run) -> Signs:
    """Measure a finished run, with whatever probes lie in its ``evaluations``.

    Raises:
        DataError: if a file is missing or damaged.
    """
    predictions = run.predictions
    groups = {group: [one for one in predictions if one.group == group] for group in averages.GROUPS}
    scores = {group: averages.average(_pieces(those)).value for group, those in groups.items() if those}
    gains = {group: dict(_image_gains(run, those)) for group, those in groups.items()}
    boxed = [one for one in groups["localization"] if one.iou_threshold is not None]
    constant = {CONSTANT_BOX: gain_of(_over_constant_box(boxed))} if boxed else {}
    return Signs(
        run=run.name,
        arm=run.arm,
        seed=run.seed,
        vqa=100 * scores["vqa"] if "vqa" in scores else None,
        localization=100 * scores["localization"] if "localization" in scores else None,
        gains={**constant, **gains["localization"]},
        vqa_gains=gains["vqa"],
        boxes=_boxes(boxed) if boxed else None,
        losses=describe_losses([row["loss"] for row in run.training_rows]),
    )


def gain_of(parts: Sequence[Piece]) -> Gain:
    """Return by how much the scores of some pieces lie above their baselines, in points."""
    found = averages.gain(parts)
    return Gain(100 * found.value, 100 * found.low, 100 * found.high, sum(len(part.score) for part in parts))


def describe_boxes(boxes: Sequence[Sequence[float]], true_boxes: Sequence[Sequence[float]], n: int) -> Boxes:
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


def _pieces(those: Sequence[Predictions], rows: Sequence[tuple[Floats, Floats]] | None = None) -> list[Piece]:
    """Return the pieces of some benchmarks, with other (scores, baselines) if they are given."""
    values = [(one.score, one.baseline_score) for one in those] if rows is None else rows
    return [
        piece
        for one, (score, baseline) in zip(those, values, strict=True)
        for piece in averages.pieces(one.name, score, baseline, one.image, np.asarray(one.column("subset"), np.str_))
    ]


def _over_constant_box(those: Sequence[Predictions]) -> list[Piece]:
    """Return pieces whose baseline is the best constant box: found in training, else on these very examples."""
    return _pieces(those, [(one.score, _constant_box_score(one)) for one in those])


def _constant_box_score(one: Predictions) -> Floats:
    if one.baseline.startswith("constant box"):
        return one.baseline_score
    truth, threshold = _true_boxes(one), one.iou_threshold or 0.5
    box = np.asarray([best_constant_box(truth, threshold)])
    return np.asarray(iou_matrix(box, truth)[0] >= threshold, dtype=np.float64)


def _true_boxes(one: Predictions) -> Floats:
    try:
        return np.array([json.loads(text) for text in one.column("truth")], dtype=np.float64).reshape(-1, 4)
    except ValueError:
        raise DataError(f"{one.path}: a truth is no box of four numbers") from None


def _boxes(those: Sequence[Predictions]) -> Boxes:
    boxes = [box for one in those for box in one.column("box") if box is not None]
    truth = np.concatenate([_true_boxes(one) for one in those])
    return describe_boxes(boxes, truth.tolist(), len(truth))


def _image_gains(run: Run, those: Sequence[Predictions]) -> Iterator[tuple[str, Gain]]:
    """Yield the gain over each probe that the run has been put to, the largest of its kind."""
    for probe, title in PROBES.items():
        found = [gain for evaluation in _probes(run, probe) if (gain := _image_gain(evaluation, those)) is not None]
        if found:
            yield title, max(found, key=lambda gain: gain.n)


def _probes(run: Run, probe: str) -> Iterator[Run]:
    for evaluation in run.evaluations:
        if evaluation.evaluation is not None and evaluation.evaluation.images == probe:
            yield evaluation


def _image_gain(evaluation: Run, those: Sequence[Predictions]) -> Gain | None:
    probed = {one.name: one for one in evaluation.predictions}
    pairs = [join(probed[one.name], one) for one in those if one.name in probed]
    return gain_of([piece for pair in pairs for piece in pair.pieces]) if pairs else None
