"""The four things a probe asks of an image: is it there, which is it, how many are there, where is it.

Each question exists twice: as a label for a readout of hidden states, and as text for the VLM itself, so that both can
be compared on the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from eyeswap.data.digits.language import DESCRIPTION_REQUEST, count_text, existence_text
from eyeswap.data.formats.boxes import format_box
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.evaluation.boxes import clipped
from eyeswap.evaluation.grounding import box_request
from eyeswap.geometry import Box, Placement
from eyeswap.probing.labelled import LabelledImage, LabelledImages

Task = Literal["there", "which", "how many", "where"]
TASKS: tuple[Task, ...] = get_args(Task)
TITLES: dict[Task, str] = {
    "there": "is it there?",
    "which": "which is it?",
    "how many": "how many?",
    "where": "where is it?",
}
MAX_COUNT = 6  # more objects count as so many
_PER_IMAGE = 8  # questions of a task about one image, at most


@dataclass(frozen=True)
class Question:
    """A question about one image.

    Attributes:
        image: number of the image.
        task: what is asked.
        category: number of the category asked about; the label itself where the task is ``which``.
        box: the object in 0..1 of the canvas, for ``which`` and ``where``.
        label: 0 or 1 for ``there``, the category for ``which``, the count for ``how many``; 0 for ``where``.
        text: the question as instruction data puts it.
        answer: the answer in words; for ``where`` the box is the answer.
    """

    image: int
    task: Task
    category: int
    box: Box | None
    label: int
    text: str
    answer: str


def ask(images: LabelledImages, placements: Sequence[Placement], seed: int = 0) -> dict[Task, list[Question]]:
    """Return the questions about all images, by task.

    Present and absent categories are asked about equally often. An object is asked about by its category (``where``)
    only if it is the only one of it in the image, and by its place (``which``) whatever it is. Objects that the canvas
    cuts off by more than half are passed over.

    Args:
        images: the images.
        placements: where each lies on the canvas that the backbone sees.
        seed: of the choice among possible questions.
    """
    questions: dict[Task, list[Question]] = {task: [] for task in TASKS}
    for number, (image, placement) in enumerate(zip(images.images, placements, strict=True)):
        rng = np.random.default_rng([seed, number])
        for question in _of_image(number, image, placement, images.categories, rng):
            questions[question.task].append(question)
    return questions


def _of_image(
    number: int, image: LabelledImage, placement: Placement, categories: Sequence[str], rng: np.random.Generator
) -> Iterator[Question]:
    seen = [(thing, box) for thing in image.things if (box := visible_box(thing.box, placement)) is not None]
    present = sorted({categories.index(thing.category) for thing, _ in seen})
    absent = sorted(set(range(len(categories))) - {categories.index(thing.category) for thing in image.things})
    pairs = min(_PER_IMAGE // 2, len(present), len(absent))
    for label, among in ((1, present), (0, absent)):
        for category in _drawn(among, pairs, rng):
            text = f"{existence_text(categories[category])}\n{SHORT_ANSWER}"
            yield Question(number, "there", category, None, label, text, "Yes" if label else "No")
    count = min(len(image.things), MAX_COUNT)
    yield Question(
        number, "how many", 0, None, count, f"{count_text('objects')}\n{SHORT_ANSWER}", str(len(image.things))
    )
    for row in _drawn(range(len(seen)), _PER_IMAGE, rng):
        thing, box = seen[row]
        category = categories.index(thing.category)
        text = f"{DESCRIPTION_REQUEST}{format_box(clipped(placement.convert(thing.box, 'image', 'image-unit')))}."
        yield Question(number, "which", category, box, category, text, thing.category)
    once = [row for row, (thing, _) in enumerate(seen) if _count(image, thing.category) == 1]
    for row in _drawn(once, _PER_IMAGE, rng):
        thing, box = seen[row]
        text = box_request(thing.category)
        yield Question(number, "where", categories.index(thing.category), box, 0, text, "")


def visible_box(box: Box, placement: Placement) -> Box | None:
    """Return a box of the image in 0..1 of the canvas, cut at its edges; None if less than half of it is visible."""
    x0, y0, x1, y1 = placement.convert(box, "image", "canvas-unit")
    cut = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
    area = max(cut[2] - cut[0], 0.0) * max(cut[3] - cut[1], 0.0)
    return cut if area > 0.5 * (x1 - x0) * (y1 - y0) else None


def _count(image: LabelledImage, category: str) -> int:
    return sum(thing.category == category for thing in image.things)


def _drawn(among: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    return sorted(int(among[row]) for row in rng.permutation(len(among))[:count])
