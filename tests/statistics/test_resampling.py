"""Images and training runs as two sources of chance in one interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eyeswap.errors import DataError
from eyeswap.statistics.crossed import SeedVariance
from eyeswap.statistics.differences import compare_arms, sample_differences, sample_intervals, sign_flips
from eyeswap.statistics.resampling import Interval, Sample


def answers(generator, num_arms, num_seeds, num_images, luck):
    """Draw scores ``[k, S, n]`` of two questions an image whose runs differ by luck."""
    images = np.repeat(np.arange(num_images), 2)
    skill = 0.5 + luck * generator.uniform(-1, 1, (num_arms, num_seeds, 1))
    return (generator.random((num_arms, num_seeds, len(images))) < skill).astype(float), images


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_what_images_add_sums_to_the_average_and_residuals_to_nothing(seed, num_arms, num_seeds):
    generator = np.random.default_rng(seed)
    scores, images = answers(generator, num_arms, num_seeds, 12, 0.2)
    other = generator.random((num_arms, num_seeds, 7))
    sample = Sample([scores, other], [images, np.arange(7) + 9], [2.0, 1.0])
    assert sample.by_image().sum(axis=2) == pytest.approx(sample.values)
    assert sample.residuals().sum(axis=2) == pytest.approx(np.zeros((num_arms, num_seeds)), abs=1e-12)
    assert sample.values == pytest.approx((2 * scores.mean(axis=2) + other.mean(axis=2)) / 3)
    assert sample.num_images == 16


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(1)
    scores, images = answers(generator, 1, 5, 300, 0.15)
    several = sample_intervals(Sample([scores], [images]))[0]
    pooled = sample_intervals(Sample([scores.mean(axis=1)], [images]))[0]
    assert several.value == pytest.approx(pooled.value)
    assert several.num_seeds == 5
    assert several.seed_error > 0
    assert several.high - several.low > 2 * (pooled.high - pooled.low)


def test_seeds_that_are_one_and_the_same_add_nothing():
    scores, images = answers(np.random.default_rng(2), 1, 1, 200, 0.0)
    once = sample_intervals(Sample([scores], [images]))[0]
    thrice = sample_intervals(Sample([np.repeat(scores, 3, axis=1)], [images]))[0]
    assert thrice.seed_error == 0
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=2e-3)


def test_the_p_value_is_the_alpha_at_whose_critical_distance_zero_lies():
    for one in (
        Interval(0.2, 0, 0, 0.1, 50, 40.0),
        Interval(0.2, 0, 0, 0.1, 50, 40.0, 3, 0.05, 4.0, 1.25),
        Interval(0.2, 0, 0, 0.1, 50, 40.0, 1, 0.05),
    ):
        assert one.critical_distance(one.p_value()) == pytest.approx(0.2)
    assert Interval(0.2, 0, 0, 0.1, 50, 40.0).p_value() == pytest.approx(2 * stats.t.sf(2, 40))
    assert Interval(0.2, 0, 0, 0.1, 50, 40.0, 2, 0.09, 2.0).p_value() > 0.15  # two seeds show little


def test_a_difference_that_is_decided_has_an_interval_without_zero():
    one = Interval(0.0, 0, 0, 0.1, 50, 40.0, 2, 0.08, 2.0, 1.5)
    assert one.half_width() < one.critical_distance()


def test_a_stated_seed_variance_widens_intervals_and_raises_p_values():
    scores, images = answers(np.random.default_rng(5), 2, 1, 300, 0.1)
    sample = Sample([scores], [images])
    alone, p_alone = compare_arms(sample)[0, 1]
    known, p_known = compare_arms(sample, seeds=SeedVariance(0.03**2))[0, 1]
    estimated, p_estimated = compare_arms(sample, seeds=SeedVariance(0.03**2, 4))[0, 1]
    assert known.seed_error == pytest.approx(0.03 * np.sqrt(2))
    assert known.standard_error**2 == pytest.approx(alone.standard_error**2 + known.seed_error**2)
    assert alone.half_width() < known.half_width() < estimated.half_width()
    assert p_alone < p_known < p_estimated
    assert sample_intervals(sample, seeds=SeedVariance(0.03**2))[0].seed_error == pytest.approx(0.03)


def test_few_images_are_tried_in_all_patterns():
    a, b = np.array([1, 1, 1, 1, 1.0]), np.array([0, 0, 0, 0, 1.0])
    sample = Sample([np.stack([a, b])], [np.arange(5)])
    assert sign_flips(sample)[0, 1] == pytest.approx(2 / 16)  # the fifth image is silent


def test_what_tells_apart_is_the_sign_flip_test_with_one_seed_and_the_interval_with_several():
    generator = np.random.default_rng(3)
    scores, images = answers(generator, 3, 1, 60, 0.1)
    sample = Sample([scores], [images])
    flips = sign_flips(sample)
    assert all(p == flips[pair] for pair, (_, p) in compare_arms(sample).items())
    scores, images = answers(generator, 2, 3, 60, 0.1)
    sample = Sample([scores], [images])
    interval, p = compare_arms(sample)[0, 1]
    assert interval == sample_differences(sample)[0, 1]
    assert p == interval.p_value()


def test_a_difference_beyond_all_patterns_has_the_intervals_tail():
    sure = np.stack([np.ones(400), np.random.default_rng(4).random(400) < 0.2]).astype(float)
    interval, p = compare_arms(Sample([sure], [np.arange(400)]))[0, 1]
    assert p == interval.p_value() < 1e-20


def test_arms_and_seeds_have_one_shape():
    with pytest.raises(DataError, match="different numbers of arms"):
        Sample([np.ones((2, 5)), np.ones((3, 5))], [np.arange(5), np.arange(5)])
