"""Readouts find what is there, and nothing where nothing is."""

from __future__ import annotations

import pytest
import torch

from eyeswap.geometry import ImageGeometry
from eyeswap.probing.labelled import digits_images
from eyeswap.probing.questions import TASKS, ask
from eyeswap.probing.readouts import Features, constant_scores, cross_validate

IMAGES = digits_images(150)
PLACEMENTS = [ImageGeometry(canvas=(128, 128)).placement(*image.open().size) for image in IMAGES.images]
QUESTIONS = ask(IMAGES, PLACEMENTS)
GRID = (8, 8)


def perfect_tokens() -> Features:
    """Return tokens that say which category covers each cell of the canvas, one channel a category."""
    values = torch.zeros(len(IMAGES.images), 64, len(IMAGES.categories) + 1)
    centres = Features(values, GRID).positions * 128
    for row, (image, placement) in enumerate(zip(IMAGES.images, PLACEMENTS, strict=True)):
        for thing in image.things:
            x0, y0, x1, y1 = placement.convert(thing.box, "image", "canvas")
            inside = (centres[:, 0] >= x0) & (centres[:, 0] <= x1) & (centres[:, 1] >= y0) & (centres[:, 1] <= y1)
            middle = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2])
            inside[(centres - middle).norm(dim=1).argmin()] = True
            values[row, inside, IMAGES.categories.index(thing.category)] = 1.0
        values[row, :, -1] = len(image.things) / 6
    return Features(values, GRID)


PERFECT = perfect_tokens()
NOISE = Features(torch.randn(len(IMAGES.images), 64, 14, generator=torch.Generator().manual_seed(0)), GRID)


@pytest.mark.parametrize(("task", "least"), [("there", 0.75), ("which", 0.95), ("how many", 0.95), ("where", 0.4)])
def test_a_linear_readout_finds_what_lies_open(task: str, least: float) -> None:
    scores = cross_validate("linear", task, PERFECT, QUESTIONS[task], len(IMAGES.categories), folds=2, steps=150)
    assert scores.mean() > least


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_found_in_noise(task: str) -> None:
    asked = QUESTIONS[task]
    scores = cross_validate("linear", task, NOISE, asked, len(IMAGES.categories), folds=2, steps=60)
    assert scores.mean() < constant_scores(task, asked).mean() + 0.1


def test_attention_finds_boxes() -> None:
    asked = QUESTIONS["where"][:200]
    scores = cross_validate("nonlinear", "where", PERFECT, asked, len(IMAGES.categories), folds=2, steps=50)
    assert scores.mean() > constant_scores("where", asked).mean() + 0.04


def test_states_are_read_and_answers_are_repeatable() -> None:
    asked = QUESTIONS["there"]
    states = torch.randn(len(asked), 6, generator=torch.Generator().manual_seed(1))
    states[:, 2] += torch.tensor([4.0 * question.label for question in asked])
    first = cross_validate("linear", "there", Features(states, None), asked, 13, folds=2, steps=100)
    again = cross_validate("linear", "there", Features(states, None), asked, 13, folds=2, steps=100)
    assert first.mean() > 0.9
    assert (first == again).all()


def test_a_question_is_answered_by_a_readout_that_has_not_seen_its_image() -> None:
    asked = QUESTIONS["there"]
    names = torch.zeros(len(asked), len(IMAGES.images))  # states that say nothing but which image is shown
    names[torch.arange(len(asked)), torch.tensor([question.image for question in asked])] = 1.0
    scores = cross_validate("nonlinear", "there", Features(names, None), asked, 13, folds=2, steps=60)
    assert abs(scores.mean() - 0.5) < 0.1
