"""No worse, as good as, and what a study would have found."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eyeswap.errors import DataError
from eyeswap.statistics.equivalence import equivalence, minimum_detectable
from eyeswap.statistics.resampling import Interval


def difference(value, error, freedom=200.0, seeds=1, seed_error=0.0):
    return Interval(value, value, value, error, 201, freedom, seeds, seed_error)


def test_the_p_values_are_those_of_two_one_sided_t_tests():
    found = equivalence(difference(-0.2, 0.3), 1.0)
    assert found.p_no_worse == pytest.approx(stats.t.sf((-0.2 + 1.0) / 0.3, 200))
    assert found.p_no_better == pytest.approx(stats.t.cdf((-0.2 - 1.0) / 0.3, 200))
    assert found.p_equivalent == max(found.p_no_worse, found.p_no_better)


@pytest.mark.parametrize(
    ("value", "error", "no_worse", "no_better"),
    [(0.0, 0.2, True, True), (1.5, 0.3, True, False), (-1.5, 0.3, False, True), (0.0, 2.0, False, False)],
)
def test_what_is_shown_of_a_difference_and_its_error(value, error, no_worse, no_better):
    found = equivalence(difference(value, error), 1.0)
    assert (found.p_no_worse < 0.05, found.p_no_better < 0.05) == (no_worse, no_better)


def test_a_loss_of_the_margin_is_not_called_none():
    assert equivalence(difference(-1.0, 0.3), 1.0).p_no_worse == pytest.approx(0.5)


def test_identical_answers_are_equivalent():
    assert equivalence(difference(0.0, 0.0), 1.0).p_equivalent < 0.05


@given(st.floats(-5, 5), st.floats(0.01, 3), st.floats(0.1, 5))
def test_swapping_the_arms_swaps_worse_and_better(value, error, margin):
    forth, back = equivalence(difference(value, error), margin), equivalence(difference(-value, error), margin)
    assert forth.p_no_worse == pytest.approx(back.p_no_better, abs=1e-12)
    assert 0 <= forth.p_no_worse <= 1


@given(st.floats(-5, 5), st.floats(0.01, 3), st.floats(0.1, 2), st.floats(1.01, 3))
def test_a_wider_margin_is_easier_to_keep(value, error, margin, factor):
    narrow, wide = (equivalence(difference(value, error), m) for m in (margin, margin * factor))
    assert wide.p_no_worse <= narrow.p_no_worse + 1e-12


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_a_margin_is_above_zero(margin):
    with pytest.raises(DataError, match=r"margin .*must be above 0"):
        equivalence(difference(0.0, 1.0), margin)


def test_the_detectable_difference_is_the_textbook_one():
    assert minimum_detectable(difference(0.3, 1.0, 1e6)) == pytest.approx(1.959964 + 0.841621, abs=1e-4)
    assert minimum_detectable(difference(0.3, 2.0, 1e6)) == pytest.approx(2 * (1.959964 + 0.841621), abs=1e-3)
    assert minimum_detectable(difference(0.3, 1.0), alpha=0.05 / 10) > minimum_detectable(difference(0.3, 1.0))
