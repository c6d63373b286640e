"""Conversations about a scene in the style of the LLaVA-1.5 instruction mix, and the scene drawn in words.

One conversation merges several kinds of turns about one scene, as the real mix does: short answers, multiple choice,
boxes for expressions, descriptions for boxes. The wording of every instruction is the mix's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eyeswap.data.digits.language import Question, Style, expression, name, questions
from eyeswap.data.digits.scene import Scene, box_text, normalised_box

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
BOX_REQUEST = "Please provide the bounding box coordinate of the region this sentence describes: "
DESCRIPTION_REQUEST = "Please provide a short description for this region: "
MAX_COUNT = 15  # TallyQA offers the counts 0..15 as the letters A..P

BACKGROUND_WORD, PADDING_WORD = ".", "_"


def letter_options() -> str:
    """Return TallyQA's sixteen option lines, ``A. 0`` to ``P. 15``."""
    return "\n".join(f"{chr(ord('A') + number)}. {number}" for number in range(MAX_COUNT + 1))


def short_answer_turn(question: Question) -> tuple[str, str]:
    """Return a visual question as ``(human, assistant)``; yes and no are capitalised, as in the mix."""
    answer = question.answer.capitalize() if question.answer in ("yes", "no") else question.answer
    return f"{question.text}\n{SHORT_ANSWER}", answer


def letter_turn(question: Question) -> tuple[str, str]:
    """Return a counting question as multiple choice over letters."""
    return f"{question.text}\n{letter_options()}\n{LETTER_ANSWER}", chr(ord("A") + int(question.answer))


def conversation(
    scene: Scene, rng: np.random.Generator, *, num_questions: int, num_boxes: int
) -> list[tuple[str, str]]:
    """Return the turns of one conversation about a scene.

    Args:
        scene: what is talked about.
        rng: the scene's own random generator.
        num_questions: short-answer questions wanted; one counting question more is asked with letters.
        num_boxes: expressions to be located; one box more is to be described.

    Returns:
        ``(human, assistant)`` pairs in random order.
    """
    asked = questions(scene, rng)
    turns = [short_answer_turn(question) for question in asked[:num_questions]]
    turns += [letter_turn(question) for question in asked if question.kind == "count"][-1:]
    styles: Sequence[Style] = ("refcoco", "refcoco+", "refcocog", "ocid-ref")
    for position in range(num_boxes):
        target = scene.things[int(rng.integers(len(scene.things)))]
        text = expression(scene, target, styles[position % 4], rng)
        if text is not None:
            turns.append((f"{BOX_REQUEST}{text}.", box_text(normalised_box(target, scene))))
    target = scene.things[int(rng.integers(len(scene.things)))]
    turns.append((f"{DESCRIPTION_REQUEST}{box_text(normalised_box(target, scene))}.", name(target)))
    return [turns[position] for position in rng.permutation(len(turns))]


def word_grid(scene: Scene, rows: int, columns: int) -> list[str]:
    """Describe a scene in words, cell by cell in reading order, as it lies on a square canvas after letterboxing.

    A cell is named after the thing that covers most of it (``red-3``), ``.`` for background, ``_`` for the padding.

    Returns:
        ``rows * columns`` words, row by row.
    """
    side = max(scene.width, scene.height)
    pad_x, pad_y = (side - scene.width) / 2, (side - scene.height) / 2
    words = []
    for row in range(rows):
        for column in range(columns):
            x0, x1 = column * side / columns - pad_x, (column + 1) * side / columns - pad_x
            y0, y1 = row * side / rows - pad_y, (row + 1) * side / rows - pad_y
            words.append(_cell_word(scene, (x0, y0, x1, y1)))
    return words


def _cell_word(scene: Scene, cell: tuple[float, float, float, float]) -> str:
    area = (cell[2] - cell[0]) * (cell[3] - cell[1])
    best, best_cover = None, 0.2 * area
    for thing in scene.things:
        cover = _overlap(thing.box, cell)
        if cover > best_cover:
            best, best_cover = thing, cover
    if best is not None:
        return f"{best.colour}-{best.kind}"
    inside = _overlap((0, 0, scene.width, scene.height), cell)
    return BACKGROUND_WORD if inside >= 0.5 * area else PADDING_WORD


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
