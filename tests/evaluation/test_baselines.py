from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.data.formats import Example
from eyeswap.errors import DataError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import ANY_KIND, TrivialBaseline, best_constant_box, majority_answers
from eyeswap.evaluation.boxes import iou_matrix


def example(truth, kind="colour", number=0):
    return Example(str(number), "i.jpg", "i", "val", kind, "?", truth)


def test_each_kind_gets_its_most_frequent_answer():
    answers = majority_answers(
        [
            example(("red",) * 10),
            example(("red",) * 6 + ("blue",) * 4),
            example(("blue",) * 10),
            example(3, "count"),
        ]
    )
    assert answers == {"colour": "red", "count": "3", ANY_KIND: "red"}


def test_equals_are_decided_by_the_alphabet():
    assert majority_answers([example("yes"), example("no")])[ANY_KIND] == "no"


def test_without_training_examples_there_is_no_baseline():
    with pytest.raises(DataError, match="at least one training example"):
        majority_answers([])
    with pytest.raises(DataError, match="at least one training box"):
        best_constant_box([], 0.5)


@pytest.mark.parametrize(
    ("name", "train", "test", "score"),
    [
        ("vqav2", ("red",) * 10, ("red",) * 10, 1),
        ("gqa", "red", "blue", 0),
        ("pope", "no", "no", 1),
        ("pope", "yes", "no", 0),
        ("tallyqa", 2, 2, 1),
        ("refcoco", (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.5), 1),
        ("ocid-ref", (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9), 0),
    ],
)
def test_a_baseline_answers_as_training_taught_it(name, train, test, score):
    baseline = TrivialBaseline.fit(get_benchmark(name), [example(train)])
    assert baseline.score(example(test)) == score
    assert baseline.score(example(test, kind="never seen")) == score


def test_a_box_baseline_refuses_training_examples_without_box():
    with pytest.raises(DataError, match="truth must be a box, found 'red'"):
        TrivialBaseline.fit(get_benchmark("refcoco"), [example("red")])


def hits(box, targets, threshold):
    return float((iou_matrix(np.array([box]), targets) >= threshold).mean())


def random_boxes(seed, count):
    generator = np.random.default_rng(seed)
    centre = np.clip(generator.normal(0.5, 0.15, (count, 2)), 0.2, 0.8)
    size = generator.uniform(0.1, 0.19, (count, 2))
    return np.hstack([centre - size, centre + size])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.25, 0.5]))
def test_the_constant_box_is_at_least_as_good_as_any_training_box(seed, threshold):
    targets = random_boxes(seed, 60)
    box = best_constant_box(targets, threshold)
    assert box == best_constant_box(targets, threshold)
    assert hits(box, targets, threshold) >= max(hits(target.round(2), targets, threshold) for target in targets)
    assert 0 <= box[0] < box[2] <= 1
    assert 0 <= box[1] < box[3] <= 1


def test_the_constant_box_comes_near_the_best_of_a_coarse_grid():
    targets = random_boxes(3, 150)
    line = np.linspace(0, 1, 21)
    x1, y1, x2, y2 = (axis.ravel() for axis in np.meshgrid(line, line, line, line, indexing="ij"))
    grid = np.stack([x1, y1, x2, y2], 1)[(x1 < x2) & (y1 < y2)]
    best = float((iou_matrix(grid, targets) >= 0.5).mean(1).max())
    assert hits(best_constant_box(targets, 0.5), targets, 0.5) >= best - 0.01


@pytest.mark.parametrize(
    ("name", "answer"), [("pope", "Yes"), ("tallyqa", "A"), ("vqav2", "yes"), ("ocid-ref", "[0.00, 0.00, 1.00, 1.00]")]
)
def test_without_a_training_split_a_constant_stands_in_and_says_so(tmp_path, name, answer):
    baseline = TrivialBaseline.of(get_benchmark(name), tmp_path)
    assert baseline.answers == {ANY_KIND: answer}
    assert baseline.title == f'always "{answer}" (no training split on disk)'


def test_a_broken_training_file_is_not_passed_over(tmp_path):
    path = tmp_path / "download" / "tally-qa" / "train.json"
    path.parent.mkdir(parents=True)
    path.write_text("[{]")
    with pytest.raises(DataError, match=r"train.json: not valid JSON"):
        TrivialBaseline.of(get_benchmark("tallyqa"), tmp_path)
