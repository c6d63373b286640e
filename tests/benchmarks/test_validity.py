"""The statistics on made-up studies of known truth: intervals hold it, tests raise no more alarms than they may.

The full run, ten thousand studies of every kind, stands in ``docs/statistics.md``. Here are fewer: an alarm rate of
just 5% may show up as three standard errors more, and no more than that.
"""

import math

import numpy as np
import pytest
from benchmarks.validity.correlations import try_correlation
from benchmarks.validity.intervals import FAMILIES, SCENARIOS, try_family, try_scenario
from benchmarks.validity.seeds import Cell, block, try_cell

from eyeswap.statistics.crossed import pair_variances
from eyeswap.statistics.differences import compare_arms
from eyeswap.statistics.resampling import Sample
from eyeswap.statistics.tails import tail

pytestmark = pytest.mark.extended

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
    ],
)
def outcome(request):
    return try_scenario(TRIED[request.param], STUDIES, seed=1)


def test_intervals_hold_the_truth_in_93_to_97_of_100_studies(outcome):
    for share in (outcome.score, outcome.difference):
        assert LEAST <= share <= MOST


def test_no_more_than_5_of_100_true_nulls_are_rejected(outcome):
    assert 0.01 < outcome.sign_flip <= ALARMS + noise(ALARMS, STUDIES)
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


WHOLE_STUDIES = 1000


@pytest.mark.parametrize("scatter", [1.0, 3.0])
@pytest.mark.parametrize(("arms", "seeds", "spread"), [(2, 2, 2.0), (4, 2, 2.0), (4, 3, 0.5)])
def test_equal_arms_of_several_seeds_are_decided_in_5_of_100_studies_at_most(arms, seeds, spread, scatter):
    outcome = try_cell(Cell(arms, seeds, spread, scatter), WHOLE_STUDIES, seed=1, num_detectable=50)
    assert outcome.decided <= ALARMS + noise(ALARMS, WHOLE_STUDIES)
    if scatter == 1:
        held = outcome.difference
        assert LEAST - noise(LEAST, WHOLE_STUDIES) <= held <= MOST + noise(MOST, WHOLE_STUDIES)
        assert outcome.ratio <= (1.2 if seeds == 2 else 1.15)


def test_seeds_without_any_luck_still_give_intervals_that_hold_the_truth_in_93_to_97_of_100_studies():
    outcome = try_cell(Cell(2, 2, 0.0), WHOLE_STUDIES, seed=1, num_detectable=1)
    assert LEAST <= outcome.difference <= MOST
    assert LEAST <= outcome.score <= MOST


def test_one_seed_tells_runs_apart_and_a_stated_seed_sd_keeps_equal_arms_undecided():
    shares = [
        try_cell(Cell(4, 1, 2.0, known=known), 400, seed=1, num_detectable=1).decided for known in (None, math.inf, 8.0)
    ]
    assert shares[0] > 0.5
    assert max(shares[1:]) <= ALARMS + noise(ALARMS, 400)


def test_a_true_difference_of_the_detectable_size_is_found_in_four_of_five_studies():
    size = try_cell(Cell(4, 3, 1.0), 200, seed=1).detectable
    found = try_cell(Cell(4, 3, 1.0, ahead=size), WHOLE_STUDIES, seed=2, num_detectable=1).first_pair
    assert 0.72 <= found <= 0.9


def test_the_simulation_computes_what_a_report_computes():
    cell = Cell(3, 2, 1.0)
    sample = block(cell, np.random.default_rng(3))[2]
    scores = sample.by_image().reshape(-1, 3, 2, sample.num_images)[7]
    values, residuals = (whole.reshape(-1, 3, 2, *whole.shape[2:])[7] for whole in (sample.values, sample.residuals()))
    found = pair_variances(values, residuals, [(0, 1), (0, 2), (1, 2)])
    alone = compare_arms(Sample([scores * sample.num_images], [np.arange(sample.num_images)]))
    for place, (interval, p) in enumerate(alone.values()):
        assert interval.seed_error**2 == pytest.approx(found.runs[place])
        assert interval.standard_error**2 == pytest.approx(found.runs[place] + found.images[place])
        ours = tail(
            abs(interval.value), found.images[place], found.caution * found.runs[place], 99.0, found.run_freedom
        )
        assert p == pytest.approx(float(ours))


@pytest.mark.parametrize(("arms", "truth"), [(6, 0.0), (15, 0.5)])
def test_intervals_of_rank_correlations_are_honest(arms, truth):
    one = try_correlation(arms, truth, 1000, seed=1)
    assert all(share >= LEAST for share in one.held.values())
    assert all(share <= ALARMS + noise(ALARMS, 1000) for share in one.false_alarms.values())
    assert bool(one.false_alarms) == (truth == 0)
