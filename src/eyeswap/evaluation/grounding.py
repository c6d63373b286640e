"""Localization: RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref, answered with a box in text.

Boxes are scored in the frame of the original image, whatever geometry the model saw; so does the study.
An answer that is not exactly a list of four numbers is invalid and wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from eyeswap.data.formats import Example, read_ocid, read_refer
from eyeswap.errors import DataError
from eyeswap.evaluation.benchmark import (
    Answer,
    AnswerKind,
    Benchmark,
    Details,
    Outcome,
    Split,
    answer_text,
    percent,
)
from eyeswap.evaluation.boxes import iou, parse_box

REFER_AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
_IOU_STEPS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class _Grounding(Benchmark):
    """What both families share: the question, the parser, IoU against a threshold."""

    group: ClassVar[Literal["vqa", "localization"]] = "localization"

    @property
    def answer_kind(self) -> AnswerKind:
        return "box"

    def user_message(self, example: Example) -> str:
        return f'Please provide the bounding box coordinate of the region this sentence describes: "{example.question}"'

    def score(self, example: Example, answer: Answer) -> Outcome:
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
class RefCOCO(_Grounding):
    """One of the three RefCOCO sets, split ``val``; an example a sentence."""

    metric: ClassVar[str] = "accuracy at IoU >= 0.5"

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the three sets in the study's order; slim subsets are drawn from all of them together."""
        return [example for name in REFER_AUTHORS for example in self._read(root, split, name)]

    def examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read this set alone."""
        return self._read(root, split, self.name)

    def owns(self, example: Example) -> bool:
        """Whether the example is from this one of the three sets."""
        return self.slim_part(example) == self.name

    def slim_part(self, example: Example) -> str:
        """Each of the three sets is filled by itself."""
        return example.example_id.partition("/")[0]

    def _read(self, root: Path, split: Split, name: str) -> list[Example]:
        folder = root / "download" / self.family / name
        refs = folder / f"refs({REFER_AUTHORS[name]}).p"
        images = f"download/{self.family}/train2014"
        return read_refer(refs, folder / "instances.json", images, name, "val" if split == "eval" else "train")


@dataclass(frozen=True)
class OCIDRef(_Grounding):
    """OCID-Ref validation set in three levels of clutter, pooled."""

    metric: ClassVar[str] = "accuracy at IoU >= 0.25"
    iou_threshold: ClassVar[float] = 0.25

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read ``val_expressions.json`` or ``train_expressions.json``."""
        folder = root / "download" / self.family
        name = "val" if split == "eval" else "train"
        return read_ocid(folder / f"{name}_expressions.json", f"download/{self.family}/OCID-dataset")

    def slim_part(self, example: Example) -> str:
        """Each level of clutter is filled by itself."""
        return example.subset
