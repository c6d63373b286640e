"""Localization: RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref, answered with a box in text.

Boxes are scored in the frame of the original image, whatever geometry the model saw; so does the study.
An answer that is not exactly a list of four numbers is invalid and wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eyeswap.data.formats import Example
from eyeswap.data.layout import Split, read_ocid_ref_files, read_refcoco_files
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
from eyeswap.evaluation.boxes import iou, parse_box

_IOU_STEPS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Grounding(Benchmark):
    """What both families share: the question, the parser, IoU against a threshold."""

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
        box = parse_box(text)
        if box is None:
            return Outcome(example, text, 0.0, invalid=True)
        overlap = iou(box, [float(value) for value in truth])
        return Outcome(example, text, float(overlap >= self.iou_threshold), box=box, iou=overlap)

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
