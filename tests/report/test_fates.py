"""Why boxes are wrong, and what a grid of tokens allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.geometry import ImageGeometry
from eyeswap.report import analyse
from eyeswap.report.analysis.boxes import FATES, best_aligned_iou, fates

SQUARE = ImageGeometry(strategy="letterbox", canvas=(128, 128)).placement(100, 100)


def test_every_answer_has_one_fate(study_dir):
    found = analyse(study_dir).grounding
    assert {(one.arm, one.benchmark) for one in found} == {
        (arm, benchmark) for arm in ("vit", "maxvit", "vmamba", "mambavision") for benchmark in ("refcoco", "ocid-ref")
    }
    for one in found:
        assert tuple(one.shares) == FATES
        assert sum(one.shares.values()) == pytest.approx(100)
        assert one.ceiling is not None
        assert 0 < one.ceiling.mean_iou <= 1


def test_shares_agree_with_scores_and_invalid_rates(study_dir):
    analysis = analyse(study_dir)
    for one in analysis.grounding:
        arm = next(arm for arm in analysis.results.arms if arm.name == one.arm)
        benchmark = arm.scores.benchmarks[one.benchmark]
        assert one.shares["right"] == pytest.approx(benchmark.score.value, abs=1e-3)
        assert one.shares["unparsed"] == pytest.approx(benchmark.invalid_rate, abs=1e-3)


def test_wrong_boxes_are_loose_only_on_the_object(study_dir):
    one = analyse(study_dir).results.arms[0].predictions[3]
    told = fates(one)
    for row, fate in enumerate(told):
        if fate == "unparsed":
            assert one.column("box")[row] is None
        if fate == "right":
            assert one.score[row] == 1


def test_a_box_on_token_borders_is_reached_exactly():
    assert best_aligned_iou((0.25, 0.5, 0.75, 0.875), SQUARE, (8, 8)) == pytest.approx(1.0)


def test_a_box_smaller_than_a_token_is_reached_by_its_share_of_one():
    assert best_aligned_iou((0.0, 0.0, 1 / 16, 1 / 16), SQUARE, (8, 8)) == pytest.approx(0.25)


@given(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.02, 1), st.floats(0.02, 1))
def test_a_finer_grid_is_never_worse(x, y, width, height):
    truth = (x, y, min(x + width, 1.0), min(y + height, 1.0))
    coarse, fine = (best_aligned_iou(truth, SQUARE, (n, n)) for n in (4, 8))
    assert 0 < coarse <= fine + 1e-9 <= 1 + 2e-9
