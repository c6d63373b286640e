"""One example of a benchmark, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eyeswap.data.formats.boxes import Box

Truth = tuple[str, ...] | str | int | Box


@dataclass(frozen=True)
class Example:
    """One question about one image, with its ground truth.

    Attributes:
        example_id: raw id of the file, unique within the benchmark (``adversarial/17``, ``refcoco/12/345``).
        image: path of the image relative to the data root, with forward slashes.
        image_id: raw id of the image; examples of one image share it.
        subset: part of the benchmark that is reported by itself (``adversarial``, ``simple``, ``val``).
        kind: kind of question, for the breakdowns and for the trivial baseline.
        question: the question or referring expression as the file gives it.
        truth: human answers (VQA), one answer (GQA), a label (POPE), a count (TallyQA) or a box in 0..1 of
            the original image (localization).
        size: (width, height) of the image in pixels where the file gives it.
        box_px: ``(x1, y1, x2, y2)`` in pixels, for localization.
        details: further official fields that a metric or a writer needs, by their official names.
    """

    example_id: str
    image: str
    image_id: str
    subset: str
    kind: str
    question: str
    truth: Truth
    size: tuple[int, int] | None = None
    box_px: Box | None = None
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def raw_id(self) -> str:
        """The last part of the id, as the file has it."""
        return self.example_id.rpartition("/")[2]
