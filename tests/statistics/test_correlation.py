"""Rank correlations over few arms say how little few arms can show."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eyeswap.errors import DataError
from eyeswap.statistics.correlation import METHODS, correlate, interval

X = [78.8, 79.1, 82.6, 83.6, 83.9, 82.2]
Y = [51.9, 51.4, 59.0, 56.9, 53.5, 49.9]


def test_the_values_are_scipys():
    assert correlate(X, Y).value == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert correlate(X, Y, "kendall").value == pytest.approx(stats.kendalltau(X, Y).statistic)


def test_the_exact_p_value_is_scipys_for_kendall():
    assert correlate(X, Y, "kendall").p == pytest.approx(stats.kendalltau(X, Y, method="exact").pvalue)


def test_ties_count_as_ties():
    x = [1.0, 1.0, 2.0, 3.0, 3.0, 4.0]
    assert correlate(x, Y).value == pytest.approx(stats.spearmanr(x, Y).statistic)
    assert correlate(x, Y, "kendall").value == pytest.approx(stats.kendalltau(x, Y).statistic)


@given(st.lists(st.integers(0, 20), min_size=4, max_size=7, unique=True), st.sampled_from(METHODS), st.randoms())
def test_only_the_order_matters_and_turning_one_side_turns_the_sign(x, method, random):
    y = random.sample(range(100), len(x))
    one = correlate(x, y, method)
    assert correlate([math.exp(value / 10) for value in x], y, method) == one
    turned = correlate([-value for value in x], y, method)
    assert turned.value == pytest.approx(-one.value)
    assert turned.p == pytest.approx(one.p)


@pytest.mark.parametrize("method", METHODS)
def test_four_arms_in_perfect_order_decide_nothing(method):
    one = correlate([1, 2, 3, 4], [10, 20, 30, 40], method)
    assert one.value == 1.0
    assert one.p == one.smallest_p == pytest.approx(2 / 24)
    assert not one.decided


def test_five_arms_in_perfect_order_do():
    assert correlate([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]).decided


def test_many_arms_use_random_orders_and_are_the_same_every_time():
    generator = np.random.default_rng(0)
    x = generator.random(20)
    y = x + 0.2 * generator.random(20)
    first, again = correlate(x, y), correlate(x, y)
    assert first == again
    assert first.decided
    assert first.p >= 1 / 20_001


def test_too_few_arms_say_why_not():
    assert correlate([1, 2], [1, 2]).value is None
    assert "needs at least three" in correlate([1, 2], [1, 2]).why_not
    assert "same value" in correlate([1, 1, 1], [1, 2, 3]).why_not
    three = correlate([1, 2, 3], [1, 3, 2])
    assert (three.value, three.low) == (0.5, None)
    assert "3 arms" in three.why_not


def test_unusable_numbers_are_refused():
    with pytest.raises(DataError, match="not a finite number"):
        correlate([1, 2, math.nan], [1, 2, 3])
    with pytest.raises(DataError, match="give one pair per arm"):
        correlate([1, 2, 3], [1, 2])


@given(st.floats(-1, 1), st.integers(5, 60), st.sampled_from(METHODS))
def test_an_interval_holds_its_value_and_stays_within_one(value, n, method):
    low, high = interval(value, n, method)
    assert -1 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1
    wider = interval(value, 5, method)
    assert wider[1] - wider[0] >= high - low - 1e-9
