"""Language about scenes: questions, referring expressions, and training conversations.

A question has one right answer. A conversation combines several kinds of turns, as in the LLaVA-1.5 mix: short answers,
multiple choice, boxes for expressions, descriptions for boxes. The instructions are worded as in the mix.

Nothing here depends on pixels; the same language describes scenes to the miniature LLM (in words) and to its VLMs (in
images). A referring expression is a noun phrase plus an optional relation, each with a test on things as its meaning.
It is used only if the meaning selects exactly its target and is unambiguous for every other thing.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eyeswap.data.digits.scene import COLOURS, KINDS, Scene, Thing
from eyeswap.data.formats.boxes import BOX_REQUEST, format_box, normalise_box
from eyeswap.data.formats.tallyqa import count_message
from eyeswap.data.formats.vqa import SHORT_ANSWER

Style = Literal["refcoco", "refcoco+", "refcocog", "ocid-ref"]
Meaning = Callable[[Thing], bool | None]  # None: unclear, too close to call

_MARGIN = 0.08  # of the canvas side: closer positions count as ambiguous
_BIGGER = 1.35  # ratio of areas from which one thing is clearly bigger than another


@dataclass(frozen=True)
class Question:
    """A question about a scene; ``kind`` is what it tests: colour, digit, shape, count, exist, relation."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Noun:
    """A noun phrase with its meaning; ``words`` counts the attributes it uses."""

    text: str
    fits: Callable[[Thing], bool]


def name(thing: Thing) -> str:
    """Return the full name of a thing, such as ``red 3`` or ``blue circle``."""
    return f"{thing.colour} {thing.kind}"


def _nouns(thing: Thing) -> list[Noun]:
    family = "digit" if thing.is_digit else "shape"
    return [
        Noun(thing.kind, lambda other: other.kind == thing.kind),
        Noun(name(thing), lambda other: name(other) == name(thing)),
        Noun(f"{thing.colour} {family}", lambda o: o.colour == thing.colour and o.is_digit == thing.is_digit),
        Noun(family, lambda other: other.is_digit == thing.is_digit),
        Noun(f"{thing.colour} object", lambda other: other.colour == thing.colour),
        Noun("object", lambda other: True),
    ]


def _is_unique(scene: Scene, noun: Noun) -> bool:
    return sum(noun.fits(thing) for thing in scene.things) == 1


def _offset(scene: Scene, thing: Thing, other: Thing) -> tuple[float, float]:
    """Return how far ``thing`` is to the right of and below ``other``, in canvas sides."""
    (x, y), (ox, oy) = thing.centre, other.centre
    return (x - ox) / scene.width, (y - oy) / scene.height


def _clearly(value: float) -> bool | None:
    return None if abs(value) < _MARGIN else value > 0


def _relations(scene: Scene, anchor: Thing) -> list[tuple[str, Meaning]]:
    """Return the four directions from an anchor: ``left of``, ``right of``, ``above``, ``below``."""
    return [
        ("left of", lambda thing: _clearly(-_offset(scene, thing, anchor)[0])),
        ("right of", lambda thing: _clearly(_offset(scene, thing, anchor)[0])),
        ("above", lambda thing: _clearly(-_offset(scene, thing, anchor)[1])),
        ("below", lambda thing: _clearly(_offset(scene, thing, anchor)[1])),
    ]


def _extreme(key: Callable[[Thing], float], among: list[Thing], margin: float, ratio: bool) -> Thing | None:
    """Return the thing with the clearly largest key, or None if the lead is too small."""
    first, second = sorted(among, key=key, reverse=True)[:2]
    lead = key(first) >= key(second) * margin if ratio else key(first) - key(second) >= margin
    return first if lead else None


def expression(scene: Scene, target: Thing, style: Style, rng: np.random.Generator) -> str | None:
    """Return an expression of a style that selects exactly ``target``, or None if the style has none.

    ``refcoco`` may use location words, ``refcoco+`` may not, ``refcocog`` uses longer phrases with size or location,
    and ``ocid-ref`` prefers the location relative to another thing.
    """
    plain, places = _plain(scene, target), _places(scene, target)
    sizes, anchored = _sizes(scene, target), _by_anchor(scene, target)
    groups = {
        "refcoco": [plain, places, anchored],
        "refcoco+": [plain, plain, sizes],
        "refcocog": [sizes, places, anchored],
        "ocid-ref": [anchored or plain],
    }[style]
    groups = [group for group in groups if group]
    if not groups:
        return None
    group = groups[int(rng.integers(len(groups)))]
    text = group[int(rng.integers(len(group)))]
    return text if style in ("refcoco", "refcoco+") else f"the {text}"


def _plain(scene: Scene, target: Thing) -> list[str]:
    return [noun.text for noun in _nouns(target) if noun.text != "object" and _is_unique(scene, noun)]


def _ambiguous_nouns(scene: Scene, target: Thing) -> Iterator[tuple[Noun, list[Thing]]]:
    for noun in _nouns(target):
        among = [thing for thing in scene.things if noun.fits(thing)]
        if len(among) > 1:
            yield noun, among


def _places(scene: Scene, target: Thing) -> list[str]:
    found = []
    keys: list[tuple[str, Callable[[Thing], float]]] = [
        ("leftmost", lambda thing: -thing.centre[0] / scene.width),
        ("rightmost", lambda thing: thing.centre[0] / scene.width),
        ("top", lambda thing: -thing.centre[1] / scene.height),
        ("bottom", lambda thing: thing.centre[1] / scene.height),
    ]
    for noun, among in _ambiguous_nouns(scene, target):
        found += [f"{word} {noun.text}" for word, key in keys if _extreme(key, among, _MARGIN, False) is target]
    return found


def _sizes(scene: Scene, target: Thing) -> list[str]:
    found = []
    for noun, among in _ambiguous_nouns(scene, target):
        if _extreme(lambda thing: thing.area, among, _BIGGER, True) is target:
            found.append(f"biggest {noun.text}")
        if _extreme(lambda thing: 1 / thing.area, among, _BIGGER, True) is target:
            found.append(f"smallest {noun.text}")
    return found


def _by_anchor(scene: Scene, target: Thing) -> list[str]:
    found = []
    for anchor in scene.things:
        if anchor is target or sum(name(other) == name(anchor) for other in scene.things) > 1:
            continue
        for noun in _nouns(target)[2:]:
            others = [thing for thing in scene.things if noun.fits(thing) and thing is not anchor]
            for word, meaning in _relations(scene, anchor):
                verdicts = {id(thing): meaning(thing) for thing in others}
                rest = [verdict for key, verdict in verdicts.items() if key != id(target)]
                if verdicts[id(target)] and all(verdict is False for verdict in rest):
                    found.append(f"{noun.text} {word} the {name(anchor)}")
    return found


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Return questions about a scene in random order; yes/no questions come in balanced pairs if possible."""
    found = [*_attribute_questions(scene), *_count_questions(scene, rng)]
    found += [*_existence_questions(scene, rng), *_relation_questions(scene, rng)]
    return [found[position] for position in rng.permutation(len(found))]


def _attribute_questions(scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        if sum(other.kind == thing.kind for other in scene.things) == 1:
            found.append(Question("colour", f"What color is the {thing.kind}?", thing.colour))
        family = "digit" if thing.is_digit else "shape"
        same = [o for o in scene.things if o.colour == thing.colour and o.is_digit == thing.is_digit]
        if len(same) == 1:
            found.append(Question(family, f"Which {family} is {thing.colour}?", thing.kind))
    return found


def _count_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    colour = str(rng.choice(list(COLOURS)))
    present = str(rng.choice([thing.colour for thing in scene.things]))
    tests: dict[str, Callable[[Thing], bool]] = {
        "objects": lambda thing: True,
        "digits": lambda thing: thing.is_digit,
        "shapes": lambda thing: not thing.is_digit,
        f"{present} objects": lambda thing: thing.colour == present,
        f"{colour} objects": lambda thing: thing.colour == colour,
    }
    return [Question("count", count_text(text), str(count(scene, test))) for text, test in tests.items()]


def count(scene: Scene, test: Callable[[Thing], bool]) -> int:
    """Return the number of things in a scene that pass a test."""
    return sum(test(thing) for thing in scene.things)


def count_text(what: str) -> str:
    """Return the counting question about ``what`` (a plural)."""
    return f"How many {what} are there?"


def absent_names(scene: Scene, rng: np.random.Generator, how_many: int, near: bool) -> list[str]:
    """Return names of things that are not in the scene.

    Args:
        scene: the scene.
        rng: the random generator that chooses.
        how_many: number of names wanted.
        near: whether each must share its colour or kind with a present thing, which makes it harder.
    """
    present = {name(thing) for thing in scene.things}
    colours = {thing.colour for thing in scene.things} if near else set(COLOURS)
    kinds = {thing.kind for thing in scene.things} if near else set(KINDS)
    candidates = [
        f"{colour} {kind}"
        for colour in COLOURS
        for kind in KINDS
        if f"{colour} {kind}" not in present and (not near or colour in colours or kind in kinds)
    ]
    return [str(text) for text in rng.choice(candidates, size=min(how_many, len(candidates)), replace=False)]


def existence_text(thing_name: str) -> str:
    """Return POPE's question about a thing."""
    return f"Is there a {thing_name} in the image?"


def _existence_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    present = sorted({name(thing) for thing in scene.things})
    present = [present[i] for i in rng.permutation(len(present))[:2]]
    absent = absent_names(scene, rng, len(present), near=bool(rng.random() < 0.6))
    yes = [Question("exist", existence_text(text), "yes") for text in present]
    return yes + [Question("exist", existence_text(text), "no") for text in absent]


def _relation_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Return yes/no questions about relative position, one true and one false each, and ``what is left of``."""
    unique = [t for t in scene.things if sum(name(o) == name(t) for o in scene.things) == 1]
    if len(unique) < 2:
        return []
    first, second = (unique[i] for i in rng.permutation(len(unique))[:2])
    relations = _relations(scene, second)
    axis = int(rng.integers(2)) * 2
    found = []
    for word, meaning in relations[axis : axis + 2]:
        verdict = meaning(first)
        if verdict is not None:
            text = f"Is the {name(first)} {word} the {name(second)}?"
            found.append(Question("relation", text, "yes" if verdict else "no"))
    for word, meaning in relations:
        verdicts = [(thing, meaning(thing)) for thing in scene.things if thing is not second]
        fits = [thing for thing, verdict in verdicts if verdict]
        if len(fits) == 1 and all(verdict is not None for _, verdict in verdicts):
            found.append(Question("what", f"What is {word} the {name(second)}?", name(fits[0])))
    return found


DESCRIPTION_REQUEST = "Please provide a short description for this region: "

BACKGROUND_WORD, PADDING_WORD = ".", "_"


def short_answer_turn(question: Question) -> tuple[str, str]:
    """Return a question as ``(human, assistant)``; yes and no are capitalised, as in the mix."""
    answer = question.answer.capitalize() if question.answer in ("yes", "no") else question.answer
    return f"{question.text}\n{SHORT_ANSWER}", answer


def letter_turn(question: Question) -> tuple[str, str]:
    """Return a counting question as multiple choice over letters."""
    return count_message(question.text), string.ascii_uppercase[int(question.answer)]


def conversation(
    scene: Scene, rng: np.random.Generator, *, num_questions: int, num_boxes: int
) -> list[tuple[str, str]]:
    """Return the turns of one conversation about a scene.

    Args:
        scene: the scene.
        rng: the scene's random generator.
        num_questions: number of short-answer questions; one more counting question is asked with letters.
        num_boxes: number of expressions to locate; one more box is to be described.

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
            turns.append((f"{BOX_REQUEST}{text}.", _box_text(scene, target)))
    target = scene.things[int(rng.integers(len(scene.things)))]
    turns.append((f"{DESCRIPTION_REQUEST}{_box_text(scene, target)}.", name(target)))
    return [turns[position] for position in rng.permutation(len(turns))]


def _box_text(scene: Scene, thing: Thing) -> str:
    return format_box(normalise_box(thing.box, (scene.width, scene.height)))


def word_grid(scene: Scene, rows: int, columns: int) -> list[str]:
    """Describe a letterboxed scene in words, one per cell of a square canvas, in reading order.

    A cell is named after the thing that covers most of it (``red-3``), ``.`` is background, ``_`` is padding.

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
