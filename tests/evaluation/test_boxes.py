from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.data.formats.boxes import find_box, format_box
from eyeswap.evaluation.boxes import iou, iou_matrix, parse_box

sides = st.sets(st.integers(0, 100), min_size=2, max_size=2).map(sorted)  # two edges, the smaller first
boxes = st.tuples(sides, sides).map(lambda xy: (xy[0][0] / 100, xy[1][0] / 100, xy[0][1] / 100, xy[1][1] / 100))


@given(boxes)
def test_a_written_box_parses_to_itself(box):
    assert parse_box(format_box(box)) == pytest.approx(box)
    assert find_box(f"It is at {format_box(box)}.") == pytest.approx(box)


@given(boxes, boxes)
def test_iou_is_symmetric_and_at_most_one(first, second):
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0 <= iou(first, second) <= 1
    assert iou(first, first) == pytest.approx(1)


@pytest.mark.parametrize(
    "text",
    ["", "the dog", "[0.1, 0.2, 0.3]", "(0.1, 0.2, 0.3, 0.4)", "[0.1, 0.2, 0.3, 0.4].",
     "[0.3, 0.2, 0.1, 0.4]", "[0.1, 0.2, 1.3, 0.4]", "[[0.1, 0.2, 0.3, 0.4]]", "[0.1, 0.2, nan, 0.4]",
     "[0.1, 0.2, 0.3, 0.4]</s>",
     "[" * 500, "[1if 1else 0, 0, 1, 1]", "[0.1\x00, 0.2, 0.3, 0.4]", None, 3.5],
)  # fmt: skip
def test_anything_but_a_whole_list_of_four_is_invalid(text):
    assert parse_box(text) is None


@given(st.text(alphabet="[](){},.-+0123456789e \n#'\"x*", max_size=60))
def test_parsing_never_raises(text):
    box = parse_box(text)
    assert box is None or len(box) == 4


def test_the_lenient_reading_looks_inside_prose():
    assert find_box("at (0.1,0.2,0.3,0.4), I think") == (0.1, 0.2, 0.3, 0.4)
    assert find_box("at [3, 4, 5, 6]") is None


def test_iou_of_every_pair_agrees_with_one_pair():
    generator = np.random.default_rng(0)
    low = generator.uniform(0, 0.5, (5, 2))
    some = np.hstack([low, low + generator.uniform(0.01, 0.5, (5, 2))])
    table = iou_matrix(some[:2], some)
    assert table.shape == (2, 5)
    assert table[1, 3] == pytest.approx(iou(some[1], some[3]))


def test_boxes_without_area_have_no_overlap():
    assert iou((0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.1)) == 0


@pytest.mark.parametrize("text", ["[" + "1" * 200_000, "[1" * 100_000, "[ " * 100_000, "[1." + "1" * 200_000 + ","])
def test_a_long_answer_is_read_in_linear_time(text: str):
    assert find_box(text) is None  # a quadratic reader would take minutes, beyond the time limit of a test
