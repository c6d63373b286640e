"""The published study's numbers and ours."""

from dataclasses import replace

import pytest

from eyeswap.report.analysis.published import compare_with_published, published_points
from eyeswap.report.analysis.study import gather


@pytest.fixture
def comparisons(make_study):
    results = gather(make_study(arms={"vmamba-small": "vmamba-small-s2l15"}, num_examples=40))
    return results, compare_with_published(results)


def test_a_released_model_has_all_three_averages(comparisons):
    _, found = comparisons
    assert {one.group: one.published for one in found} == {"vqa": 62.39, "localization": 39.17, "overall": 59.27}
    assert all(one.result.source == "released table" for one in found)
    assert all(one.low < one.value < one.high for one in found)


def test_what_differs_is_named_and_decides_nothing(comparisons):
    _, found = comparisons
    assert {one.in_words for one in found} == {"not comparable"}
    assert found[0].differs == ("other benchmarks", "the embedded data", "language model digits-llm")


def test_without_a_difference_the_interval_decides(comparisons):
    _, found = comparisons
    one = replace(found[0], differs=())
    assert replace(one, low=62.0, high=63.0).in_words == "within"
    assert replace(one, low=62.394, high=63.0).in_words == "within"  # the published one is rounded
    assert replace(one, low=62.4, high=63.0).in_words == "outside"


def test_published_points_are_those_of_the_objectives_at_hand(comparisons):
    results, found = comparisons
    points = published_points(results, found)
    assert {point.objective for point in points} == {"classification"}
    assert published_points(results, []) == []


def test_backbones_that_no_one_published_have_nothing_beside_them(study_dir):
    assert compare_with_published(gather(study_dir)) == []
