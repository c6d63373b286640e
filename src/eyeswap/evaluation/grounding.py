"""Localization: RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref, answered with a box in text.

The study reads a box in 0..1 of the original image, whatever geometry the model saw: box frame ``original``. A model
that was trained on boxes of its canvas is read in the frame ``canvas``. Both overlaps are kept beside each answer. An
answer that is not exactly a list of four numbers is invalid and wrong; what a lenient reader finds in it is kept too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, get_args

from eyeswap.data.formats import Box, Example
from eyeswap.data.official.layout import Split, read_ocid_ref_files, read_refcoco_files
from eyeswap.errors import DataError
from eyeswap.evaluation.benchmark import (
    Answer,
    AnswerKind,
    Benchmark,
    Details,
    Group,
    Outcome,
    answer_text,
    percent,
)
from eyeswap.evaluation.boxes import find_box, iou, parse_box, to_original
from eyeswap.geometry import ImageGeometry
from eyeswap.recipe import BoxFrame

BOX_FRAMES: tuple[BoxFrame, ...] = get_args(BoxFrame)
_IOU_STEPS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class BoxOutcome(Outcome):
    """One scored box; all boxes are in 0..1 of the original image.

    Attributes:
        lenient_box: the first box found anywhere in the answer.
        lenient_iou: its overlap with the true box.
        original_iou: overlap if the four numbers are taken as 0..1 of the original image.
        canvas_iou: overlap if they are taken as 0..1 of the canvas; None if image size or geometry are unknown.
    """

    lenient_box: Box | None = None
    lenient_iou: float | None = None
    original_iou: float | None = None
    canvas_iou: float | None = None


@dataclass(frozen=True)
class Grounding(Benchmark):
    """What both families share: the question, the parser, IoU against a threshold.

    Attributes:
        box_frame: what the numbers in an answer are fractions of.
        geometry: how the model saw the image; without it only the frame ``original`` can be read.
    """

    box_frame: BoxFrame = field(default="original", kw_only=True)
    geometry: ImageGeometry | None = field(default=None, kw_only=True)

    @property
    def group(self) -> Group:
        """Localization."""
        return "localization"

    @property
    def answer_kind(self) -> AnswerKind:
        """A box in text."""
        return "box"

    def user_message(self, example: Example) -> str:
        """Ask for the box, as the study words it."""
        return f'Please provide the bounding box coordinate of the region this sentence describes: "{example.question}"'

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score a text by the overlap of the box in it with the true one."""
        text = answer_text(example, answer)
        truth = example.truth
        if not isinstance(truth, tuple) or len(truth) != 4:
            raise DataError(f"example {example.example_id}: {self.name} needs a box as truth, found {truth!r}")
        true_box = [float(value) for value in truth]
        strict, lenient = parse_box(text), find_box(text)
        boxes = {frame: self._moved(strict, frame, example) for frame in BOX_FRAMES}
        overlaps = {frame: None if box is None else iou(box, true_box) for frame, box in boxes.items()}
        box, overlap = boxes[self.box_frame], overlaps[self.box_frame]
        loose = self._moved(lenient, self.box_frame, example)
        if (box is None) != (strict is None):
            raise DataError(f"example {example.example_id}: a box of the canvas needs the image's size and geometry")
        return BoxOutcome(
            example,
            text,
            float(overlap is not None and overlap >= self.iou_threshold),
            invalid=strict is None,
            box=box,
            iou=overlap,
            lenient_box=loose,
            lenient_iou=None if loose is None else iou(loose, true_box),
            original_iou=overlaps["original"],
            canvas_iou=overlaps["canvas"],
        )

    def _moved(self, box: Box | None, frame: BoxFrame, example: Example) -> Box | None:
        """Return a box in 0..1 of the original image; None if there is none, or it cannot be known."""
        if box is None or frame == "original":
            return box
        if self.geometry is None or example.size is None:
            return None
        return to_original(box, self.geometry.placement(*example.size))

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Mean IoU (invalid counts 0) and accuracy at other thresholds."""
        overlaps = [outcome.iou or 0.0 for outcome in outcomes]
        values = {"mean_iou": percent(overlaps)}
        for step in _IOU_STEPS:
            values[f"accuracy@{step}"] = percent(float(overlap >= step) for overlap in overlaps)
        return Details(values, {} if outcomes else dict.fromkeys(values, "no example"))


@dataclass(frozen=True)
class RefCOCO(Grounding):
    """One split of one of the three RefCOCO sets, the study's ``val`` unless told; an example a sentence."""

    metric: ClassVar[str] = "accuracy at IoU >= 0.5"
    part: str = "val"

    @property
    def set_name(self) -> str:
        """The set's folder: ``refcoco``, ``refcoco+`` or ``refcocog``."""
        return self.name.partition("-")[0]

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the three sets; of a test split this one set alone."""
        return read_refcoco_files(root, split) if self.part == "val" else self.examples(root, split)

    def examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read this set alone."""
        return read_refcoco_files(root, self.part if split == "eval" else split, [self.set_name])

    def owns(self, example: Example) -> bool:
        """Whether the example is from this one of the three sets."""
        return self.slim_part(example) == self.set_name


@dataclass(frozen=True)
class OCIDRef(Grounding):
    """OCID-Ref in three levels of clutter, pooled; the study's validation set unless told."""

    metric: ClassVar[str] = "accuracy at IoU >= 0.25"
    iou_threshold: ClassVar[float] = 0.25
    part: str = "val"

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the expressions of a split."""
        return read_ocid_ref_files(root, self.part if split == "eval" else split)
