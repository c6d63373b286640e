"""The statistics on made-up studies of known truth: intervals hold it, tests raise no more alarms than they may.

The full run, ten thousand studies of every kind, stands in ``docs/statistics.md``. Here are fewer: an alarm rate of
just 5% may show up as three standard errors more, and no more than that.
"""

import math

import pytest
from benchmarks.validity.correlations import try_correlation
from benchmarks.validity.intervals import FAMILIES, SCENARIOS, try_family, try_scenario

STUDIES = 1500
LEAST, MOST, ALARMS = 0.93, 0.97, 0.05
TRIED = {one.title: one for one in SCENARIOS}


def noise(share, studies):
    """Return three standard errors of a share."""
    return 3 * math.sqrt(share * (1 - share) / studies)


@pytest.fixture(
    scope="module",
    params=[
        "60 images, six questions each",
        "100 images, crowded ones harder",
        "100 images in two benchmarks, weights 3 to 1",
        "100 images, 3 seeds that differ",
    ],
)
def outcome(request):
    return try_scenario(TRIED[request.param], STUDIES, seed=1)


def test_intervals_hold_the_truth_in_93_to_97_of_100_studies(outcome):
    for share in (outcome.score, outcome.difference):
        assert LEAST <= share <= MOST


def test_no_more_than_5_of_100_true_nulls_are_rejected(outcome):
    decides = outcome.interval if math.isnan(outcome.sign_flip) else outcome.sign_flip
    assert 0.01 < decides <= ALARMS + noise(ALARMS, STUDIES)
    assert 0.01 < outcome.no_worse <= ALARMS + noise(ALARMS, STUDIES)


def test_differences_of_the_detectable_size_are_found_in_four_of_five_studies(outcome):
    assert 0.72 <= outcome.power <= 0.88


def test_mcnemars_test_on_questions_does_reject_too_often():
    outcome = try_scenario(TRIED["60 images, six questions each"], STUDIES, seed=2)
    assert outcome.mcnemar > ALARMS + noise(ALARMS, STUDIES)


@pytest.mark.parametrize("title", FAMILIES)
def test_a_whole_study_of_six_arms_is_wrong_anywhere_in_5_of_100_at_most(title):
    family = try_family(title, 300, seed=1)
    assert family.any_wrong <= ALARMS + noise(ALARMS, 300)
    assert family.all_ranks >= 1 - ALARMS - noise(ALARMS, 300)


@pytest.mark.parametrize(("arms", "truth"), [(6, 0.0), (15, 0.5)])
def test_intervals_of_rank_correlations_are_honest(arms, truth):
    one = try_correlation(arms, truth, 1000, seed=1)
    assert all(share >= LEAST for share in one.held.values())
    assert all(share <= ALARMS + noise(ALARMS, 1000) for share in one.false_alarms.values())
    assert bool(one.false_alarms) == (truth == 0)
