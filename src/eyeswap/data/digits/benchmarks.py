"""Benchmark questions about a scene, family by family, as examples that the official formats can store.

Names and paths follow the official layout, so that the loaders of the real files read them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyeswap.data.digits.language import (
    Style,
    absent_names,
    count,
    count_text,
    existence_text,
    expression,
    name,
    questions,
)
from eyeswap.data.digits.scene import COLOURS, Scene, Split, Thing
from eyeswap.data.formats import Example, normalise_box

FAMILIES = ("vqa-v2", "pope", "tally-qa", "refcoco", "ocid-ref")
_QUESTIONS_PER_SCENE = 8
_VAL_OFFSET = 500_000  # validation ids start here, so that training and validation share none


def scene_examples(family: str, split: Split, scene: Scene, index: int, rng: np.random.Generator) -> Iterator[Example]:
    """Yield a family's examples about one scene.

    Args:
        family: one of `FAMILIES`.
        split: baselines are fitted on training scenes, models are evaluated on validation scenes.
        scene: the scene.
        index: number of the scene within its family and split, which determines ids and file names.
        rng: the scene's random generator.
    """
    image_id = index + 1 + (_VAL_OFFSET if split == "val" else 0)
    make = {"vqa-v2": _vqa, "pope": _pope, "tally-qa": _tallyqa, "refcoco": _refcoco, "ocid-ref": _ocid}
    return make[family](split, scene, image_id, rng)


def _vqa(split: Split, scene: Scene, image_id: int, rng: np.random.Generator) -> Iterator[Example]:
    year = f"{split}2014"
    for number, question in enumerate(questions(scene, rng)[:_QUESTIONS_PER_SCENE]):
        yes_no = question.answer in ("yes", "no")
        answer_type = "yes/no" if yes_no else "number" if question.answer.isdecimal() else "other"
        yield Example(
            example_id=str(image_id * 100 + number),
            image=f"download/vqa-v2/images_{year}/COCO_{year}_{image_id:012d}.jpg",
            image_id=str(image_id),
            subset=year,
            kind=question.kind,
            question=question.text,
            truth=(question.answer,) * 10,
            details={"answer_type": answer_type, "question_type": question.text.split()[0].lower()},
        )


def _pope(split: Split, scene: Scene, image_id: int, rng: np.random.Generator) -> Iterator[Example]:
    """Yield pairs of a present and an absent thing; adversarial absent things resemble a present one."""
    present = sorted({name(thing) for thing in scene.things})
    present = [present[i] for i in rng.permutation(len(present))[:2]]
    folder = "train_images" if split == "train" else "val_images"
    for part in ("adversarial", "popular", "random") if split == "val" else ("train",):
        absent = absent_names(scene, rng, len(present), near=part in ("adversarial", "train"))
        if part == "popular":
            absent = _popular_absents(scene, rng, len(present))
        asked = [(text, "yes") for text in present] + [(text, "no") for text in absent]
        for number, (text, label) in enumerate(asked):
            yield Example(
                example_id=f"{part}/{image_id * 10 + number}",
                image=f"download/pope/{folder}/COCO_val2014_{image_id:012d}.jpg",
                image_id=f"COCO_val2014_{image_id:012d}",
                subset=part,
                kind="existence",
                question=existence_text(text),
                truth=label,
            )


def _popular_absents(scene: Scene, rng: np.random.Generator, how_many: int) -> list[str]:
    """Return absent shapes: each shape occurs more often than each digit, so shapes are the popular things."""
    present = {name(thing) for thing in scene.things}
    shapes = [f"{colour} {kind}" for colour in COLOURS for kind in ("circle", "square", "triangle")]
    absent = [text for text in shapes if text not in present]
    return [str(text) for text in rng.choice(absent, size=how_many, replace=False)]


def _tallyqa(split: Split, scene: Scene, image_id: int, rng: np.random.Generator) -> Iterator[Example]:
    """Yield simple counts (objects, digits, shapes) and complex ones (with a colour)."""
    colour = scene.things[int(rng.integers(len(scene.things)))].colour
    other = str(rng.choice(list(COLOURS)))
    asked = {
        "objects": count(scene, lambda thing: True),
        "digits": count(scene, lambda thing: thing.is_digit),
        "shapes": count(scene, lambda thing: not thing.is_digit),
        f"{colour} objects": count(scene, lambda thing: thing.colour == colour),
        f"{other} objects": count(scene, lambda thing: thing.colour == other),
    }
    for number, (what, answer) in enumerate(asked.items()):
        is_simple = " " not in what
        yield Example(
            example_id=str(image_id * 10 + number),
            image=f"download/tally-qa/VG_100K/{image_id}.jpg",
            image_id=str(image_id),
            subset="simple" if is_simple else "complex",
            kind=what if is_simple else "coloured objects",
            question=count_text(what),
            truth=answer,
        )


def _refcoco(split: Split, scene: Scene, image_id: int, rng: np.random.Generator) -> Iterator[Example]:
    styles: tuple[Style, ...] = ("refcoco", "refcoco+", "refcocog")
    for style in styles:
        for position in rng.permutation(len(scene.things))[:3]:
            target = scene.things[int(position)]
            text = expression(scene, target, style, rng)
            if text is not None:
                ref_id = image_id * 10 + int(position)
                image = f"download/refcoco/train2014/COCO_train2014_{image_id:012d}.jpg"
                yield _located(f"{style}/{ref_id}/{ref_id}", image, image_id, split, text, scene, target)


def _ocid(split: Split, scene: Scene, image_id: int, rng: np.random.Generator) -> Iterator[Example]:
    crowd = len(scene.things)
    clutter = "minimum" if crowd <= 2 else "medium" if crowd <= 4 else "maximum"
    for position in rng.permutation(crowd)[:3]:
        target = scene.things[int(position)]
        text = expression(scene, target, "ocid-ref", rng)
        if text is not None:
            image = f"download/ocid-ref/OCID-dataset/digits/{image_id}.jpg"
            yield _located(f"{image_id * 10 + int(position)}", image, image_id, clutter, text, scene, target)


def _located(
    example_id: str, image: str, image_id: int, subset: str, text: str, scene: Scene, target: Thing
) -> Example:
    size = (scene.width, scene.height)
    return Example(
        example_id=example_id,
        image=image,
        image_id=str(image_id),
        subset=subset,
        kind="expression",
        question=text,
        truth=normalise_box(target.box, size),
        size=size,
        box_px=target.box,
        details={"category": target.kind},
    )
