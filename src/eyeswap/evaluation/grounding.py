"""Localization benchmarks RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref, answered with a box as text.

An answer is four numbers in 0..1, and the true box has different numbers in each frame (`eyeswap.evaluation.frames`).
Each answer is therefore compared unchanged with the true box in all four frames. All four IoUs are recorded, and
``box_frame`` selects the one that is scored. An answer that is not exactly a list of four numbers is invalid and wrong;
the box that a lenient parser finds in it is recorded too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from eyeswap.data.formats import Box, Example, full_set_box
from eyeswap.data.formats.boxes import BOX_REQUEST, find_box
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
from eyeswap.evaluation.boxes import clipped, iou, parse_box, to_original
from eyeswap.evaluation.frames import TEST_BOX_FRAMES, View, frame_of
from eyeswap.geometry import Placement
from eyeswap.images import image_size
from eyeswap.recipe import TestBoxFrame

if TYPE_CHECKING:
    from eyeswap.evaluation.runner import Asked

_IOU_STEPS = (0.25, 0.5, 0.75)


def box_request(expression: str) -> str:
    """Return the message that asks where something is, as the study words it."""
    return f'{BOX_REQUEST}"{expression}"'


@dataclass(frozen=True)
class BoxOutcome(Outcome):
    """One scored box; ``box`` and ``lenient_box`` are in fractions of the original image, clipped to it.

    Attributes:
        lenient_box: the first box found anywhere in the answer.
        lenient_iou: its IoU with the true box, in the scored frame.
        overlaps: IoU of the answer with the true box in each frame; None if the answer is not a box, or image size or
            view are unknown.
        true_box_px: the true box in pixels, from which it is converted to the frames other than ``original``.
    """

    lenient_box: Box | None = None
    lenient_iou: float | None = None
    overlaps: Mapping[TestBoxFrame, float | None] = field(default_factory=dict)
    true_box_px: Box | None = None


@dataclass(frozen=True)
class Grounding(Benchmark):
    """Common part of the localization benchmarks: the question, the parser, IoU against a threshold.

    Attributes:
        box_frame: the scored frame.
        view: the model's view of the image; without it the frames ``study`` and ``canvas`` are unknown.
        exact_truth: whether true boxes are converted from the annotated pixels, as in the study's slim sets, and not
            from the box rounded to two decimals, as in its full sets.
    """

    box_frame: TestBoxFrame = field(default="original", kw_only=True)
    view: View | None = field(default=None, kw_only=True)
    exact_truth: bool = field(default=False, kw_only=True)

    @property
    def group(self) -> Group:
        return "localization"

    @property
    def answer_kind(self) -> AnswerKind:
        return "box"

    def user_message(self, example: Example) -> str:
        """Return the request for a box, worded as in the study."""
        return box_request(example.question)

    def score(self, example: Example, answer: Answer) -> BoxOutcome:
        """Score a text by the IoU of its box with the true box."""
        text = answer_text(example, answer)
        true_boxes = {frame: self._true_box(frame, example) for frame in TEST_BOX_FRAMES}
        scored = true_boxes[self.box_frame]
        strict, lenient = parse_box(text), find_box(text)
        if scored is None and strict is not None:
            raise DataError(
                f"example {example.example_id}: box frame {self.box_frame} needs the image's size and geometry"
            )
        overlaps = {frame: _iou(strict, true_box) for frame, true_box in true_boxes.items()}
        overlap = overlaps[self.box_frame]
        return BoxOutcome(
            example,
            text,
            float(overlap is not None and overlap >= self.iou_threshold),
            invalid=strict is None,
            box=self._in_original(strict, example),
            iou=overlap,
            lenient_box=self._in_original(lenient, example),
            lenient_iou=_iou(lenient, scored),
            overlaps=overlaps,
            true_box_px=self._true_box_px(example),
        )

    def _true_box(self, frame: TestBoxFrame, example: Example) -> Box | None:
        """Return the true box in a frame, clipped to it; None if image size or view are unknown."""
        if frame == "original":
            return _box(example)
        pixels = self._true_box_px(example)
        if pixels is None or example.size is None:
            return None
        placement = frame_of(frame, example.size, self.view)
        return None if placement is None else clipped(placement.convert(pixels, "image", "canvas-unit"))

    def _true_box_px(self, example: Example) -> Box | None:
        if example.size is None:
            return None
        if not self.exact_truth:
            return full_set_box(_box(example), example.size)
        return example.box_px or Placement.of_image(example.size).convert(_box(example), "canvas-unit", "image")

    def _in_original(self, box: Box | None, example: Example) -> Box | None:
        """Convert the box of an answer to fractions of the original image."""
        if box is None or self.box_frame == "original" or example.size is None:
            return box
        placement = frame_of(self.box_frame, example.size, self.view)
        return box if placement is None else to_original(box, placement)

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return mean IoU (0 for invalid answers) and accuracy at several thresholds."""
        overlaps = [outcome.iou or 0.0 for outcome in outcomes]
        values = {"mean_iou": percent(overlaps)}
        for step in _IOU_STEPS:
            values[f"accuracy@{step}"] = percent(float(overlap >= step) for overlap in overlaps)
        return Details(values, {} if outcomes else dict.fromkeys(values, "no example"))


@dataclass(frozen=True)
class RefCOCO(Grounding):
    """One split (the study's ``val`` by default) of one of the three RefCOCO sets, one example per sentence."""

    metric: ClassVar[str] = "accuracy at IoU >= 0.5"
    part: str = "val"

    @property
    def set_name(self) -> str:
        """The set's folder: ``refcoco``, ``refcoco+`` or ``refcocog``."""
        return self.name.partition("-")[0]

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read all three sets, but only this one if it is a test split."""
        return read_refcoco_files(root, split) if self.part == "val" else self.examples(root, split)

    def examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read only this set."""
        return read_refcoco_files(root, self.part if split == "eval" else split, [self.set_name])

    def owns(self, example: Example) -> bool:
        """Whether an example is from this set."""
        return self.slim_part(example) == self.set_name


@dataclass(frozen=True)
class OCIDRef(Grounding):
    """OCID-Ref, three levels of clutter pooled; the study's validation set by default."""

    metric: ClassVar[str] = "accuracy at IoU >= 0.25"
    iou_threshold: ClassVar[float] = 0.25
    part: str = "val"

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        return read_ocid_ref_files(root, self.part if split == "eval" else split)


def asked_in_frame(
    asked: Sequence[Asked], root: Path, frame: TestBoxFrame, view: View, *, exact_truth: bool
) -> list[Asked]:
    """Return benchmarks that score boxes in a frame and can compute the IoU in every other frame too.

    Args:
        asked: benchmarks, examples and baselines; those without boxes are returned unchanged.
        root: folder that image paths are relative to.
        frame: the scored frame.
        view: the model's view of images.
        exact_truth: whether the examples are slim sets, see `Grounding`.
    """
    return [
        (
            replace(benchmark, box_frame=frame, view=view, exact_truth=exact_truth or benchmark.exact_truth),
            _with_sizes(examples, root),
            baseline,
        )
        if isinstance(benchmark, Grounding)
        else (benchmark, examples, baseline)
        for benchmark, examples, baseline in asked
    ]


def _with_sizes(examples: Sequence[Example], root: Path) -> list[Example]:
    """Return examples with image sizes, read from the images if the annotations have none."""
    return [
        example if example.size else replace(example, size=image_size(root / example.image)) for example in examples
    ]


def _box(example: Example) -> Box:
    if not isinstance(example.truth, tuple) or len(example.truth) != 4:
        raise DataError(f"example {example.example_id}: needs a box as ground truth, found {example.truth!r}")
    x1, y1, x2, y2 = (float(value) for value in example.truth)
    return x1, y1, x2, y2


def _iou(box: Box | None, true_box: Box | None) -> float | None:
    return None if box is None or true_box is None else iou(box, true_box)
