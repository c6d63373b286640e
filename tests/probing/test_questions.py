"""What a probe asks: balanced, true of the image, and in the canvas's frame."""

from __future__ import annotations

import numpy as np
import pytest

from eyeswap.geometry import ImageGeometry
from eyeswap.probing.labelled import digits_images
from eyeswap.probing.questions import ask, visible_box

GEOMETRY = ImageGeometry(canvas=(128, 128))
IMAGES = digits_images(60)
PLACEMENTS = [GEOMETRY.placement(*image.open().size) for image in IMAGES.images]
QUESTIONS = ask(IMAGES, PLACEMENTS)


def test_presence_is_asked_about_as_often_as_absence_and_truly() -> None:
    labels = [question.label for question in QUESTIONS["there"]]
    assert np.mean(labels) == 0.5
    for question in QUESTIONS["there"]:
        present = {thing.category for thing in IMAGES.images[question.image].things}
        assert (IMAGES.categories[question.category] in present) == bool(question.label)


def test_places_and_counts_are_those_of_the_image() -> None:
    for question in QUESTIONS["where"]:
        things = IMAGES.images[question.image].things
        (thing,) = [each for each in things if each.category == IMAGES.categories[question.category]]
        back = PLACEMENTS[question.image].convert(question.box, "canvas-unit", "image")
        assert back == pytest.approx(thing.box)
    for question in QUESTIONS["how many"]:
        assert int(question.answer) == len(IMAGES.images[question.image].things)


def test_a_box_that_the_canvas_cuts_by_more_than_half_is_not_asked_about() -> None:
    crop = ImageGeometry(strategy="resize-crop", canvas=(64, 64), shorter_side=64)
    placement = crop.placement(200, 100)  # the middle 100 of 200 pixels are seen
    assert visible_box((60, 10, 90, 40), placement) == pytest.approx((0.1, 0.1, 0.4, 0.4))
    assert visible_box((20, 10, 60, 40), placement) is None
    assert visible_box((45, 10, 65, 30), placement) == pytest.approx((0.0, 0.1, 0.15, 0.3))


def test_the_same_seed_asks_the_same() -> None:
    assert ask(IMAGES, PLACEMENTS) == QUESTIONS
    assert ask(IMAGES, PLACEMENTS, seed=1) != QUESTIONS
