"""The tail of an error that has two sources."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from eyeswap.statistics.tails import matched_tail, reach, tail

VARIANCES = [(1.0, 1.0), (1.0, 0.02), (0.02, 1.0), (0.3, 0.7)]


def convolved(distance, images, runs, image_freedom, run_freedom):
    """Return the tail of the sum of two scaled t by integrating one against the other."""
    of_runs = stats.t(run_freedom, scale=np.sqrt(runs))
    scale = np.sqrt(images)

    def beyond(x):
        low, high = (distance - x) / scale, (distance + x) / scale
        return of_runs.pdf(x) * (special.stdtr(image_freedom, -low) + special.stdtr(image_freedom, -high))

    edges = [-np.inf, -distance, 0.0, distance, np.inf]
    return sum(integrate.quad(beyond, *ends, epsrel=1e-7)[0] for ends in pairwise(edges))


@pytest.mark.parametrize("run_freedom", [1.0, 2.0, 8.0, 33.0])
@pytest.mark.parametrize(("images", "runs"), VARIANCES)
def test_the_tail_is_that_of_the_sum_of_two_scaled_t(images, runs, run_freedom):
    for distance in (0.7, 2.0, 4.0):
        expected = convolved(distance, images, runs, 99.0, run_freedom)
        assert tail(distance, images, runs, 99.0, run_freedom) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 7.5, 60.0])
def test_one_source_alone_has_students_tail(freedom):
    for distance in (0.5, 2.0, 6.0):
        student = pytest.approx(2 * stats.t.sf(distance / 0.5, freedom), rel=5e-3)
        assert tail(distance, 0.25, 0.0, freedom, 3.0) == student
        assert tail(distance, 0.0, 0.25, 50.0, freedom) == student
        assert matched_tail(distance, 0.0, 0.25, 50.0, freedom) == student
    known = 2 * stats.norm.sf(2.0)
    assert tail(2.0, 0.6, 0.4, 1e12, np.inf) == matched_tail(2.0, 0.6, 0.4, 1e12, np.inf) == pytest.approx(known)


@given(
    st.floats(0.001, 0.9), st.floats(1e-4, 10), st.floats(1e-4, 10), st.floats(20, 500), st.floats(1, 50), st.booleans()
)
def test_the_reach_is_where_the_tail_is_alpha(alpha, images, runs, image_freedom, run_freedom, matched):
    distance = reach(alpha, images, runs, image_freedom, run_freedom, matched)
    probability = matched_tail if matched else tail
    assert probability(distance, images, runs, image_freedom, run_freedom) == pytest.approx(alpha, rel=1e-4)
    shorter = matched_tail(distance, images, runs, image_freedom, run_freedom)
    assert shorter <= 1.01 * tail(distance, images, runs, image_freedom, run_freedom)


@pytest.mark.parametrize("run_freedom", [2, 4, 12])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_tests_never_reject_too_often_and_intervals_hold_what_they_promise(run_freedom, share):
    """Computed over the distribution of the estimated variance, for several sizes of the true one."""
    quantiles = (np.arange(40) + 0.5) / 40
    for factor in (1.0, 4.0, 16.0):  # true variance of runs, against one that leaves the images ``1 - share``
        truth = share * factor
        estimates = truth * stats.chi2.ppf(quantiles, run_freedom) / run_freedom

        def rejected(alpha, matched=False, estimates=estimates, truth=truth):
            far = [reach(alpha, 1 - share, runs, 1e6, run_freedom, matched) for runs in estimates]
            return np.mean(2 * stats.norm.sf(np.array(far) / np.sqrt(1 - share + truth)))

        assert rejected(0.05) <= 1.01 * 0.05
        assert rejected(0.05 / 18) <= 1.01 * 0.05 / 18
        assert 0.93 <= 1 - rejected(0.05, matched=True) <= 0.97
