"""Boxes between the original image and the canvas, for every geometry."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyeswap.data.formats import Example
from eyeswap.data.instruction import Instruction
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.boxes import find_box, to_canvas, to_original, write_in_frame
from eyeswap.evaluation.frames import asked_in_frame, messages_in_frame
from eyeswap.evaluation.grounding import Grounding
from eyeswap.geometry import ImageGeometry

WHOLE = [  # geometries that show all of the image
    ImageGeometry(strategy="letterbox", canvas=(64, 64)),
    ImageGeometry(strategy="corner-letterbox", canvas=(64, 96)),
    ImageGeometry(strategy="corner-letterbox", canvas=(64, 96), enlarge=False),
    ImageGeometry(strategy="squash", canvas=(64, 96)),
    ImageGeometry(strategy="keep-ratio", canvas=(64, 96)),
]
CROPS = [
    ImageGeometry(strategy="letterbox", canvas=(56, 56), shorter_side=64),
    ImageGeometry(strategy="resize-crop", canvas=(56, 56), shorter_side=64),
]
sides = st.integers(3, 200)
spans = st.tuples(st.floats(0, 0.9), st.floats(0.02, 0.1))


@pytest.mark.parametrize("geometry", WHOLE, ids=str)
@given(width=sides, height=sides, x=spans, y=spans)
def test_the_way_back_is_exact_in_every_geometry(geometry: ImageGeometry, width: int, height: int, x, y):
    placement = geometry.placement(width, height)
    box = (x[0], y[0], x[0] + x[1], y[0] + y[1])
    assert to_original(to_canvas(box, placement), placement) == pytest.approx(box, abs=1e-9)


@pytest.mark.parametrize("geometry", CROPS, ids=str)
@given(width=sides, height=sides, x=spans, y=spans)
def test_the_way_back_from_a_crop_is_the_part_that_was_seen(geometry: ImageGeometry, width: int, height: int, x, y):
    placement = geometry.placement(width, height)
    box = (x[0], y[0], x[0] + x[1], y[0] + y[1])
    seen = to_original((0.0, 0.0, 1.0, 1.0), placement)
    expected = [min(max(value, seen[side % 2]), seen[2 + side % 2]) for side, value in enumerate(box)]
    assert to_original(to_canvas(box, placement), placement) == pytest.approx(expected, abs=1e-9)


def test_a_box_in_the_padding_alone_is_empty():
    placement = WHOLE[0].placement(100, 50)  # a quarter of padding above and below
    assert to_original((0.1, 0.0, 0.9, 0.2), placement)[1::2] == (0.0, 0.0)


def test_texts_are_rewritten_box_by_box():
    placement = WHOLE[0].placement(100, 50)
    text = "From [0.00, 0.00, 1.00, 1.00] to (0.5, 0.5, 1, 1), not [3, 4, 5, 6]."
    assert write_in_frame(text, "canvas", placement) == (
        "From [0.00, 0.25, 1.00, 0.75] to [0.50, 0.50, 1.00, 0.75], not [3, 4, 5, 6]."
    )
    assert write_in_frame(text, "original", placement) == text


def test_training_targets_and_the_reading_of_answers_fit_together(tmp_path: Path):
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    truth = (0.2, 0.1, 0.6, 0.4)
    instruction = Instruction("1", "a.png", ("Where is the dog?", "[0.20, 0.10, 0.60, 0.40]"))
    plain = Instruction("2", "gone.png", ("What?", "A dog."))
    original = list(messages_in_frame([instruction, plain], tmp_path, "original", WHOLE[0]))
    assert original == [instruction.messages, plain.messages]
    target = next(messages_in_frame([instruction, plain], tmp_path, "canvas", WHOLE[0]))[1]
    assert find_box(target) == pytest.approx(to_canvas(truth, WHOLE[0].placement(100, 50)), abs=0.005)
    benchmark = get_benchmark("refcoco")
    example = Example("refcoco/1/1", "a.png", "a", "val", "box", "the dog", truth)
    asked = [(benchmark, [example], TrivialBaseline.fit(benchmark, [example]))]
    for frame, right in (("canvas", True), ("original", False)):
        reader, examples, _ = asked_in_frame(asked, tmp_path, frame, WHOLE[0])[0]
        assert isinstance(reader, Grounding)
        assert examples[0].size == (100, 50)  # read from the image
        assert (reader.score(examples[0], target).score == 1.0) == right
