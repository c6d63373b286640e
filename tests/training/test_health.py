"""A run ends at once when its loss has no meaning any more, and never because learning is rough."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.training.speed import complaint

VOCABULARY = 32_064
IGNORANCE = math.log(VOCABULARY)  # 10.4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_told(bad: float):
    assert complaint(bad, 1.0, [], VOCABULARY) == f"loss is {bad}"
    assert complaint(1.0, bad, [], VOCABULARY) == f"gradient norm is {bad}"


def test_a_loss_far_beyond_ignorance_is_an_explosion_from_the_first_step_on():
    assert complaint(2.1 * IGNORANCE, 1.0, [], VOCABULARY) == (
        f"loss exploded to {2.1 * IGNORANCE:.2f}, twice that of a model that knows nothing"
    )
    assert complaint(1.5 * IGNORANCE, 1.0, [], VOCABULARY) is None  # an untrained model may be sure of wrong things


def test_a_loss_that_leaves_its_course_is_an_explosion():
    assert complaint(6.0, 1.0, [1.2] * 100, VOCABULARY) == "loss exploded from 1.200 to 6.00"
    assert complaint(6.0, 1.0, [1.2] * 99, VOCABULARY) is None  # too early to say what is usual
    assert complaint(4.9, 1.0, [1.2] * 100, VOCABULARY) is None  # more than four times, but still knowing something
    assert complaint(6.0, 1.0, [1.2] * 900 + [2.0] * 100, VOCABULARY) is None  # the last hundred count


@given(st.lists(st.floats(0, IGNORANCE / 2), min_size=0, max_size=200), st.floats(0, IGNORANCE / 2), st.floats(0, 1e6))
def test_no_loss_below_half_of_ignorance_is_ever_one(earlier: list[float], loss: float, norm: float):
    assert complaint(loss, norm, earlier, VOCABULARY) is None
