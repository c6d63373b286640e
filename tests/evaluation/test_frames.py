"""Boxes between the frames that an answer may be in, for every geometry, and the study's rule for naming them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyeswap.data.formats import Example
from eyeswap.data.formats.boxes import find_box, format_box
from eyeswap.data.instruction import Instruction
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.boxes import to_canvas, to_original
from eyeswap.evaluation.frames import (
    TEST_BOX_FRAMES,
    View,
    frame_of,
    in_words,
    messages_in_frame,
    write_in_frame,
)
from eyeswap.evaluation.grounding import Grounding, asked_in_frame
from eyeswap.geometry import ImageGeometry, Placement

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
SQUARE = View(WHOLE[0], "letterbox")
sides = st.integers(3, 200)
spans = st.tuples(st.floats(0, 0.9), st.floats(0.02, 0.1))


@pytest.mark.parametrize("geometry", WHOLE, ids=str)
@given(width=sides, height=sides, x=spans, y=spans)
def test_the_way_back_is_exact_in_every_frame(geometry: ImageGeometry, width: int, height: int, x, y):
    box = (x[0], y[0], x[0] + x[1], y[0] + y[1])
    for frame in ("original", "padded-square", "canvas"):
        placement = frame_of(frame, (width, height), View(geometry, "letterbox"))
        assert placement is not None
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
    text = "From [0.00, 0.00, 1.00, 1.00] to (0.5, 0.5, 1, 1), not [3, 4, 5, 6]."
    whole, square = Placement.of_image((100, 50)), Placement.of_padded_square((100, 50))
    moved = "From [0.00, 0.25, 1.00, 0.75] to [0.50, 0.50, 1.00, 0.75], not [3, 4, 5, 6]."
    assert write_in_frame(text, whole, square) == moved
    assert write_in_frame(moved, square, whole).startswith("From [0.00, 0.00, 1.00, 1.00] to [0.50, 0.50, 1.00, 1.00]")


@pytest.mark.parametrize(
    ("geometry", "backbone", "family", "strategy", "frame"),
    [
        ("letterbox-224", "in1k-vit-s", "vit", "letterbox", "padded square"),
        ("corner-letterbox-800x1333", "vmamba-tiny-s1l8-maskrcnn-1x", "vmamba", "letterbox", "padded square"),
        (
            "corner-letterbox-800x1333-no-enlarge",
            "vmamba-tiny-s1l8-maskrcnn-1x",
            "vmamba",
            "letterbox",
            "padded square",
        ),
        ("corner-letterbox-512", "vmamba-tiny-s1l8-maskrcnn-1x", "vmamba", "letterbox-square-512", "original image"),
        ("corner-letterbox-1024", "vitdet-l-maskrcnn", "vitdet", "letterbox", "padded square"),
        ("corner-letterbox-512", "vit-adapter-upernet-deit-b-ade20k-512", "vit-adapter", "letterbox", "padded square"),
        ("resize-crop-224-from-256", "in1k-224px-maxvit-t", "maxvit", "resize-crop", "crop of 224x224"),
        ("resize-crop-224-from-256", "vmamba-tiny-s1l8", "vmamba", "vmamba-classification", "original image"),
        ("resize-crop-224", "mambavision-t", "mambavision", "mambavision-classification", "original image"),
        ("keep-ratio-800x1333", "vmamba-tiny-s1l8-maskrcnn-1x", "vmamba", "vmamba-keep-ratio", "original image"),
        ("squash-224", "timm:resnet50", "timm", "resize-naive", "original image"),
        ("corner-letterbox-224", "own.py:build", "own", "letterbox", "padded square"),
    ],
)
def test_the_study_goes_by_the_name_of_the_resize_strategy(geometry, backbone, family, strategy, frame):
    view = View.of(ImageGeometry(canvas=(224, 224)).override(geometry), backbone, family)
    assert view.strategy == strategy
    assert in_words("study", view) == frame


def test_equal_frames_have_equal_words():
    assert in_words("canvas", SQUARE) == in_words("padded-square", SQUARE) == in_words("study", SQUARE)
    squashed = View(ImageGeometry(strategy="squash", canvas=(8, 8)), "resize-naive")
    assert in_words("canvas", squashed) == in_words("original", None) == in_words("study", squashed)
    corners = [View(ImageGeometry(strategy="corner-letterbox", canvas=canvas), "") for canvas in ((8, 8), (8, 16))]
    assert len({in_words("canvas", view) for view in (*corners, SQUARE)}) == 3


@pytest.mark.parametrize("target", ["original", "padded-square", "canvas"])
def test_training_targets_are_right_in_their_own_frame_alone(tmp_path: Path, target):
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    view = View(WHOLE[1], "letterbox-square-64")
    truth = (0.2, 0.1, 0.6, 0.4)
    instruction = Instruction("1", "a.png", ("Where is the dog?", "[0.20, 0.10, 0.60, 0.40]"))
    plain = Instruction("2", "gone.png", ("What?", "A dog."))
    messages = list(messages_in_frame([instruction, plain], tmp_path, "original", target, view))
    assert messages[1] == plain.messages
    if target == "original":
        assert messages[0] == instruction.messages
    benchmark = get_benchmark("refcoco")
    asked = [(benchmark, [Example("refcoco/1/1", "a.png", "a", "val", "box", "the dog", truth)], None)]
    asked = [(one, examples, TrivialBaseline.fit(one, examples)) for one, examples, _ in asked]
    for frame in ("original", "padded-square", "canvas"):
        reader, examples, _ = asked_in_frame(asked, tmp_path, frame, view, exact_truth=False)[0]
        assert isinstance(reader, Grounding)
        assert examples[0].size == (100, 50)  # read from the image
        overlap = reader.score(examples[0], messages[0][1]).iou
        assert (overlap is not None and overlap > 0.9) == (frame == target)


def test_text_stays_verbatim_where_the_frame_of_the_file_is_not_known(tmp_path: Path):
    instruction = Instruction("1", "gone.png", ("Where?", "[0.20, 0.10, 0.60, 0.40]"))
    assert list(messages_in_frame([instruction], tmp_path, None, None, SQUARE)) == [instruction.messages]


def test_every_frame_is_told_from_one_answer_and_truth_keeps_its_two_decimals():
    size, pixels = (640, 480), (101.3, 50.7, 203.9, 151.1)
    truth = (0.16, 0.11, 0.32, 0.31)
    example = Example("1", "i.jpg", "i", "val", "", "it", truth, size=size, box_px=pixels)
    benchmark = get_benchmark("refcoco")
    full, slim = (asked_in_frame([(benchmark, [example], None)], Path(), "study", SQUARE, exact_truth=exact)[0][0]
                  for exact in (False, True))  # fmt: skip
    rounded = tuple(value * side for value, side in zip(truth, size * 2, strict=True))
    for one, source in ((full, rounded), (slim, pixels)):
        own = Placement.of_padded_square(size).convert(source, "image", "canvas-unit")
        outcome = one.score(example, str(list(own)))
        assert set(outcome.overlaps) == set(TEST_BOX_FRAMES)
        assert outcome.true_box_px == pytest.approx(source, abs=0.005)
        assert outcome.iou == outcome.overlaps["study"] == pytest.approx(1, abs=1e-4)
        assert [outcome.overlaps["padded-square"], outcome.overlaps["canvas"]] == pytest.approx([outcome.iou] * 2)
        assert outcome.overlaps["original"] < 0.9
        assert find_box(format_box(outcome.box)) == pytest.approx(truth, abs=0.011)


def test_answers_are_never_cut_and_a_truth_outside_of_the_crop_is_never_hit():
    size, pixels = (200, 100), (0.0, 0.0, 40.0, 100.0)  # the crop shows 50 to 150
    example = Example("1", "i.jpg", "i", "val", "", "it", (0.0, 0.0, 0.2, 1.0), size=size, box_px=pixels)
    view = View(ImageGeometry(strategy="resize-crop", canvas=(50, 50), shorter_side=50), "resize-crop")
    (reader, _, _), *_ = asked_in_frame(
        [(get_benchmark("refcoco"), [example], None)], Path(), "study", view, exact_truth=True
    )
    assert reader.score(example, "[0.0, 0.0, 1.0, 1.0]").iou == 0.0
    square = View(WHOLE[0], "letterbox")
    (reader, _, _), *_ = asked_in_frame(
        [(get_benchmark("refcoco"), [example], None)], Path(), "canvas", square, exact_truth=True
    )
    taller = reader.score(example, "[0.0, 0.0, 0.2, 1.0]")  # reaches into the padding above and below
    assert taller.iou == pytest.approx(0.5)
