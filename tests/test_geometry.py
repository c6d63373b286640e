from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from eyeswap.errors import DataError, SpecError
from eyeswap.files import canonical_json
from eyeswap.geometry import IMAGENET_MEAN, ImageGeometry, Placement

GEOMETRIES = [
    ImageGeometry(canvas=(224, 224)),
    ImageGeometry(canvas=(224, 224), shorter_side=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ImageGeometry(canvas=(224, 224), shorter_side=248),
    ImageGeometry(strategy="corner-letterbox", canvas=(800, 1333), enlarge=False, interpolation="bilinear"),
    ImageGeometry(strategy="corner-letterbox", canvas=(512, 512)),
    ImageGeometry(strategy="squash", canvas=(96, 160)),
    ImageGeometry(strategy="resize-crop", canvas=(224, 224), shorter_side=256),
    ImageGeometry(strategy="keep-ratio", canvas=(800, 1333), enlarge=False, interpolation="bilinear"),
]
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "fill": (1, 2, 3)}
sides = st.integers(1, 5000)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def levels(pixels: torch.Tensor) -> np.ndarray:
    return (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@settings(max_examples=300, deadline=None)
@given(
    geometry=st.sampled_from(GEOMETRIES),
    width=sides,
    height=sides,
    corners=st.lists(st.floats(-0.5, 1.5), min_size=4, max_size=4),
    frame=st.sampled_from(["image-unit", "canvas", "canvas-unit"]),
)
def test_boxes_return_from_any_frame_unchanged(geometry, width, height, corners, frame):
    box = tuple(corner * side for corner, side in zip(corners, (width, height) * 2, strict=True))
    placement = geometry.placement(width, height)
    back = placement.convert(placement.convert(box, "image", frame), frame, "image")
    assert back == pytest.approx(box, abs=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry.strategy)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 1), (1, 300), (300, 1), (640, 480), (333, 500)])
def test_every_size_gives_a_full_canvas(geometry, size):
    pixels, placement = geometry.place(picture(*size))
    assert pixels.shape == (3, placement.canvas_size[1], placement.canvas_size[0])
    assert pixels.dtype == torch.float32
    assert bool(pixels.isfinite().all())
    x1, y1, x2, y2 = placement.content_box
    assert 0 <= x1 < x2 <= placement.canvas_size[0]
    assert 0 <= y1 < y2 <= placement.canvas_size[1]
    if geometry.strategy != "keep-ratio":
        assert placement.canvas_size == (geometry.canvas[1], geometry.canvas[0])


def letterbox_cases() -> list[tuple[int, int, list[int], list[int]]]:
    cases = [
        (621, 14, [621, 620], [0, 303, 621, 317]),
        (299, 626, [625, 626], [163, 0, 462, 626]),
        (274, 292, [292, 292], [9, 0, 283, 292]),
        (8, 79, [78, 79], [35, 0, 43, 79]),
    ]
    folder = os.environ.get("EYESWAP_GOLDENS")
    if folder:
        golden = json.loads((Path(folder) / "eval" / "letterbox.json").read_text())
        cases = [(*case["input"].values(), *case["reference"].values()) for case in golden["cases"]]
    return cases


def test_symmetric_letterbox_pads_as_the_published_one_does():
    for width, height, padded, content in letterbox_cases():
        placement = ImageGeometry(canvas=(200, 200)).placement(width, height)
        scale = (200 / padded[0], 200 / padded[1]) * 2
        expected = [edge * factor for edge, factor in zip(content, scale, strict=True)]
        assert list(placement.content_box) == pytest.approx(expected, abs=1e-9), (width, height)


@pytest.mark.parametrize("size", [(20, 9), (9, 20), (20, 20), (7, 8)])
def test_symmetric_letterbox_pads_then_resizes(size):
    image = picture(*size)
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    padded = Image.new("RGB", (size[0] + 2 * left, size[1] + 2 * top), (1, 2, 3))
    padded.paste(image, (left, top))
    expected = np.array(padded.resize((32, 32), Image.Resampling.BICUBIC))
    pixels, _ = ImageGeometry(canvas=(32, 32), **PLAIN).place(image)
    assert np.array_equal(levels(pixels), expected)


@pytest.mark.parametrize("size", [(100, 61), (61, 100), (300, 40)])
@pytest.mark.parametrize("shorter_side", [32, 37, 48])
def test_resize_crop_resizes_the_shorter_side_and_cuts_the_middle(size, shorter_side):
    image = picture(*size)
    width, height = size
    if width <= height:
        resized = (shorter_side, int(shorter_side * height / width))
    else:
        resized = (int(shorter_side * width / height), shorter_side)
    left, top = round((resized[0] - 32) / 2), round((resized[1] - 32) / 2)
    whole = image.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    geometry = ImageGeometry(strategy="resize-crop", canvas=(32, 32), shorter_side=shorter_side, **PLAIN)
    pixels, _ = geometry.place(image)
    assert np.array_equal(levels(pixels), np.array(whole))


def test_corner_letterbox_enlarges_only_when_told():
    image = picture(10, 20)
    small = ImageGeometry(strategy="corner-letterbox", canvas=(40, 40), enlarge=False, **PLAIN)
    pixels, placement = small.place(image)
    assert placement.content_box == (0, 0, 10, 20)
    assert np.array_equal(levels(pixels)[:20, :10], np.array(image))
    assert np.array_equal(levels(pixels)[20, 10], [1, 2, 3])
    large = ImageGeometry(strategy="corner-letterbox", canvas=(40, 40))
    assert large.placement(10, 20).content_box == (0, 0, 20, 40)


def test_corner_letterbox_shrinks_into_a_detection_canvas():
    geometry = ImageGeometry(strategy="corner-letterbox", canvas=(800, 1333), enlarge=False)
    assert geometry.placement(640, 480).content_box == (0, 0, 640, 480)
    assert geometry.placement(2666, 800).content_box == (0, 0, 1333, 400)


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((640, 480), (640, 480)), ((2666, 1000), (1344, 512)), ((1000, 2666), (512, 1344)), ((5, 5), (32, 32))],
)
def test_keep_ratio_pads_to_a_multiple_of_32(size, canvas):
    geometry = ImageGeometry(strategy="keep-ratio", canvas=(800, 1333), enlarge=False)
    assert geometry.placement(*size).canvas_size == canvas


def test_crop_sends_boxes_beyond_the_canvas_and_back():
    placement = ImageGeometry(strategy="resize-crop", canvas=(10, 10), shorter_side=10).placement(40, 20)
    assert placement.to_canvas((0, 0, 40, 20)) == (-5, 0, 15, 10)
    assert placement.content_box == (0, 0, 10, 10)


def test_a_marked_pixel_lands_where_the_placement_says():
    image = Image.new("RGB", (100, 40))
    image.paste((255, 255, 255), (60, 10, 70, 20))
    for geometry in (
        ImageGeometry(canvas=(200, 200), **PLAIN),
        ImageGeometry(strategy="corner-letterbox", canvas=(200, 200), **PLAIN),
        ImageGeometry(strategy="resize-crop", canvas=(80, 80), shorter_side=80, **PLAIN),
        ImageGeometry(strategy="keep-ratio", canvas=(80, 300), **PLAIN),
    ):
        pixels, placement = geometry.place(image)
        rows, columns = (pixels[0] > 0.5).nonzero(as_tuple=True)
        x1, y1, x2, y2 = placement.to_canvas((60, 10, 70, 20))
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert [int(edge) for edge in seen] == pytest.approx([x1, y1, x2, y2], abs=1)


def test_colours_are_normalised_and_the_padding_is_the_mean():
    pixels, _ = ImageGeometry(canvas=(40, 40)).place(Image.new("RGB", (40, 10), (255, 0, 128)))
    assert pixels[:, 0, 0].abs().max() < 0.02  # int(mean * 255) is within one level of the mean
    assert ImageGeometry(canvas=(4, 4)).fill_colour == (123, 116, 103)
    squash = ImageGeometry(strategy="squash", canvas=(4, 4))
    assert squash.place(Image.new("RGB", (1, 1), (255, 0, 0)))[0][0, 0, 0] == pytest.approx(
        (1 - IMAGENET_MEAN[0]) / 0.229
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"canvas": (0, 5)},
        {"canvas": (5, 5), "strategy": "resize-crop"},
        {"canvas": (5, 5), "shorter_side": 4},
        {"canvas": (5, 5), "strategy": "squash", "shorter_side": 5},
        {"canvas": (5, 5), "enlarge": False},
        {"canvas": (5, 6)},
        {"canvas": (5, 5), "strategy": "stretch"},
        {"canvas": (5, 5), "std": (0.0, 1.0, 1.0)},
        {"canvas": (5, 5), "crop": 3},
    ],
)
def test_contradictions_are_refused(wrong):
    with pytest.raises(ValidationError):
        ImageGeometry(**wrong)


def test_an_endless_image_is_refused_in_one_line():
    with pytest.raises(DataError, match="too elongated") as caught:
        ImageGeometry(canvas=(8, 8)).place(Image.new("RGB", (1, 60_000)))
    assert "\n" not in str(caught.value)


def test_description_and_canonical_form_tell_geometries_apart():
    assert len({geometry.describe() for geometry in GEOMETRIES}) == len(GEOMETRIES)
    assert len({canonical_json(geometry.canonical()) for geometry in GEOMETRIES}) == len(GEOMETRIES)
    geometry = GEOMETRIES[3]
    assert "\n" not in geometry.describe()
    assert ImageGeometry.model_validate(geometry.canonical()).canonical() == geometry.canonical()


def test_override_changes_strategy_and_canvas_and_keeps_colours():
    base = GEOMETRIES[1]
    corner = base.override("corner-letterbox-800x1333")
    assert (corner.strategy, corner.canvas, corner.mean) == ("corner-letterbox", (800, 1333), base.mean)
    assert base.override("resize-crop-96").shorter_side == 96
    assert base.override("letterbox-512").canvas == (512, 512)


def test_override_may_crop_from_a_larger_side_or_leave_small_images_small():
    base = GEOMETRIES[1]
    assert base.override("resize-crop-224-from-256").shorter_side == 256
    assert base.override("letterbox-224-from-248").shorter_side == 248
    assert not base.override("corner-letterbox-512-no-enlarge").enlarge
    assert base.override("keep-ratio-800x1333-no-enlarge").canvas == (800, 1333)


@pytest.mark.parametrize(
    "text",
    [
        "leterbox-512",
        "letterbox",
        "letterbox-512x300",
        "512",
        "squash-0",
        "",
        "squash-9-from-9",
        "letterbox-64-no-enlarge",
        "letterbox-64-from-32",
    ],
)
def test_override_names_what_is_wrong_in_one_line(text):
    with pytest.raises(SpecError, match="geometry") as caught:
        GEOMETRIES[0].override(text)
    assert "\n" not in str(caught.value)


def test_placement_of_a_square_on_its_own_canvas_is_the_identity():
    placement = ImageGeometry(canvas=(64, 64)).placement(64, 64)
    assert placement == Placement((64, 64), (64, 64), (1.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize("strategy", ["letterbox", "corner-letterbox", "squash", "resize-crop", "keep-ratio"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused_in_one_line(strategy, size):
    geometry = ImageGeometry(canvas=(32, 32)).override(f"{strategy}-32")
    with pytest.raises(DataError, match=f"image of {size[0]}x{size[1]} pixels: both sides must be at least 1"):
        geometry.place(Image.new("RGB", size))
