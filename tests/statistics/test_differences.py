import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eyeswap.errors import DataError
from eyeswap.statistics.differences import McNemar, compare_arms, holm, mcnemar, sample_differences, sample_intervals
from eyeswap.statistics.resampling import Interval, Sample


def mean_interval(scores, images, **settings):
    """Return the interval of the mean of one arm's scores ``[n]`` on one benchmark."""
    return average_interval([scores], [images], **settings)


def average_interval(scores, images, weights=None, **settings):
    """Return the interval of one arm's weighted average over benchmarks."""
    return sample_intervals(Sample([np.asarray(rows)[np.newaxis] for rows in scores], images, weights), **settings)[0]


def difference(scores_a, scores_b, images, **settings):
    """Return the interval of the difference of two arms' scores ``[n]`` on one benchmark."""
    return sample_differences(Sample([np.stack([scores_a, scores_b])], [images]), **settings)[0, 1]


def clustered_scores(generator, num_images, p=0.6, spread=0.25, most_questions=5):
    """Draw right/wrong answers whose images differ in difficulty; the true mean is ``p``."""
    sizes = generator.integers(1, most_questions + 1, num_images)
    difficulty = np.where(generator.random(num_images) < 0.5, p - spread, p + spread)
    images = np.repeat(np.arange(num_images), sizes)
    return (generator.random(len(images)) < difficulty[images]).astype(float), images


def test_the_interval_holds_the_truth_in_about_95_of_100_studies():
    generator = np.random.default_rng(7)
    hits = 0
    for study in range(400):
        scores, images = clustered_scores(generator, 120)
        interval = mean_interval(scores, images, num_resamples=400, seed=study)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.92 <= hits / 400 <= 0.975


def test_ignoring_the_images_would_have_promised_too_much():
    generator = np.random.default_rng(8)
    hits = 0
    for study in range(200):
        scores, images = clustered_scores(generator, 100, spread=0.39, most_questions=9)
        interval = mean_interval(scores, np.arange(len(images)), num_resamples=300, seed=study)
        hits += interval.low <= 0.6 <= interval.high
    assert hits / 200 < 0.85


def test_a_true_null_is_rejected_in_about_five_of_100_studies():
    generator = np.random.default_rng(9)
    rejected = 0
    for study in range(400):
        a, images = clustered_scores(generator, 120)
        flips = generator.random(len(a)) < 0.2
        b = np.where(flips, generator.permutation(a), a)
        swap = (generator.random(images.max() + 1) < 0.5)[images]  # exchangeable arms: the null holds exactly
        first, second = np.where(swap, b, a), np.where(swap, a, b)
        rejected += difference(first, second, images, num_resamples=300, seed=study).p_value() < 0.05
    assert 0.02 <= rejected / 400 <= 0.085


def test_images_shared_by_two_benchmarks_widen_the_interval_of_their_average():
    generator = np.random.default_rng(3)
    difficulty = generator.random(200)
    first = (generator.random(200) < difficulty).astype(float)
    shared = np.arange(200)
    together = average_interval([first, first], [shared, shared])
    apart = average_interval([first, first], [shared, shared + 1000])
    assert together.num_clusters == 200
    assert apart.num_clusters == 400
    assert together.standard_error == pytest.approx(apart.standard_error * np.sqrt(2), rel=0.1)


def test_weights_default_to_sample_counts_which_is_the_pooled_mean():
    generator = np.random.default_rng(4)
    groups = [generator.random(n) for n in (50, 10, 140)]
    images = [np.char.add(f"g{i}-", np.arange(len(g)).astype(str)) for i, g in enumerate(groups)]
    assert average_interval(groups, images).value == pytest.approx(np.concatenate(groups).mean())
    even = average_interval(groups, images, weights=[1, 1, 1])
    assert even.value == pytest.approx(np.mean([g.mean() for g in groups]))


def test_the_standard_error_is_the_textbook_one_when_every_image_has_one_question():
    scores = np.random.default_rng(5).random(2000)
    interval = mean_interval(scores, np.arange(2000), num_resamples=4000)
    textbook = scores.std(ddof=1) / np.sqrt(2000)
    assert interval.standard_error == pytest.approx(textbook, rel=0.05)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * textbook, rel=0.06)


def test_equal_seeds_give_equal_intervals_and_other_seeds_do_not():
    scores, images = clustered_scores(np.random.default_rng(1), 80)
    assert mean_interval(scores, images, seed=3) == mean_interval(scores, images, seed=3)
    assert mean_interval(scores, images, seed=3) != mean_interval(scores, images, seed=4)


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    scores, images = clustered_scores(np.random.default_rng(1), 80)
    whole = mean_interval(scores, images)
    monkeypatch.setattr("eyeswap.statistics.resampling._WEIGHTS_PER_BLOCK", 700)
    assert mean_interval(scores, images) == pytest.approx(whole)


@given(st.integers(1, 400), st.sampled_from([0.0, 1.0]))
def test_all_right_or_all_wrong_still_leaves_doubt(num_images, score):
    interval = mean_interval(np.full(num_images, score), np.arange(num_images))
    exact = stats.binomtest(int(score) * num_images, num_images).proportion_ci(0.95, "exact")
    assert interval.value == score
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))


def test_a_difference_without_spread_uses_the_sign_test():
    everywhere, p = compare_arms(Sample([np.stack([np.ones(10), np.zeros(10)])], [np.arange(10)]))[0, 1]
    assert everywhere.high == 1.0
    assert p == everywhere.p_value() == pytest.approx(2 / 2**10)
    same, p = compare_arms(Sample([np.ones((2, 10))], [np.arange(10)]))[0, 1]
    assert p == same.p_value() == 1.0
    assert same.low < 0 < same.high


@given(st.integers(0, 2**32 - 1))
def test_swapping_the_arms_mirrors_the_difference(seed):
    generator = np.random.default_rng(seed)
    a, b, images = generator.random(40), generator.random(40), generator.integers(0, 15, 40)
    forward, back = (difference(*arms, images, num_resamples=100) for arms in ((a, b), (b, a)))
    mirrored = back.times(-1)
    assert (forward.value, forward.low, forward.high) == pytest.approx((mirrored.value, mirrored.low, mirrored.high))
    assert forward.p_value() == pytest.approx(back.p_value())
    assert forward.low <= forward.high


def test_percent_has_the_p_value_of_fractions():
    generator = np.random.default_rng(3)
    fractions = difference(generator.random(40), generator.random(40), generator.integers(0, 15, 40))
    percent = fractions.times(100)
    assert (percent.low, percent.high) == pytest.approx((100 * fractions.low, 100 * fractions.high))
    assert percent.half_width() == pytest.approx(100 * fractions.half_width())
    assert percent.p_value() == pytest.approx(fractions.p_value())


def test_all_pairs_at_once_equal_each_pair_alone():
    generator = np.random.default_rng(6)
    scores = [generator.random((3, n)) for n in (60, 25)]
    images = [generator.integers(0, 30, 60), generator.integers(20, 45, 25)]
    together = sample_differences(Sample(scores, images))
    assert list(together) == [(0, 1), (0, 2), (1, 2)]
    for (i, j), interval in together.items():
        alone = average_interval([s[i] - s[j] for s in scores], images, bounds=(-1, 1))
        assert (interval.value, interval.low, interval.high, interval.standard_error) == pytest.approx(
            (alone.value, alone.low, alone.high, alone.standard_error)
        )


def test_mcnemar_is_the_binomial_test_of_the_disagreements():
    a = np.array([1, 1, 1, 1, 1, 1, 0, 0, 1])
    b = np.array([0, 0, 0, 0, 0, 0, 1, 0, 1])
    assert mcnemar(a, b) == McNemar(6, 1, pytest.approx(0.125))
    assert mcnemar(a, a) == McNemar(0, 0, 1.0)
    assert mcnemar(a, b / 2) is None


def test_holm_agrees_with_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_value_and_bonferroni(p_values):
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, raw * len(p_values)) + 1e-12


@pytest.mark.parametrize(
    ("scores", "images", "says"),
    [([], [], "no scores"), ([1.0], [1, 2], "needs the image"), ([1.0, float("nan")], [1, 2], "position 1 is not")],
)
def test_wrong_input_is_named(scores, images, says):
    with pytest.raises(DataError, match=says):
        mean_interval(scores, images)


def test_five_thousand_examples_take_well_under_a_second():
    scores, images = clustered_scores(np.random.default_rng(2), 1700)
    assert len(scores) > 4500
    start = time.perf_counter()
    assert isinstance(mean_interval(scores, images), Interval)
    assert time.perf_counter() - start < 1.0
