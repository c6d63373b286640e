"""Samples: objects and label maps follow the image to the canvas, and errors of images arrive as one line."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from eyeswap.adaptation.data import DenseImage, open_data
from eyeswap.adaptation.samples import Samples, boxes_on_canvas, collate, labels_on_canvas, make_sample, mirrored
from eyeswap.data.formats.ade20k import IGNORED
from eyeswap.data.formats.coco import Instance
from eyeswap.errors import DataError
from eyeswap.geometry import ImageGeometry

LETTERBOX = ImageGeometry(canvas=(64, 64))
CROP = ImageGeometry(strategy="resize-crop", canvas=(32, 32), shorter_side=64)


def blank(width: int = 40, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height))


def test_boxes_are_scaled_and_padded_like_the_image_and_crowds_left_out() -> None:
    placement = LETTERBOX.placement(128, 64)  # halved, 16 pixels of padding above
    instances = (Instance(3, (0, 0, 64, 64), 4096), Instance(4, (64, 0, 128, 64), 4096, is_crowd=True))
    boxes, classes = boxes_on_canvas(instances, placement)
    assert boxes.tolist() == [[0, 16, 32, 48]]
    assert classes.tolist() == [3]


def test_what_a_crop_cuts_off_is_no_object() -> None:
    placement = CROP.placement(64, 64)  # shows 16 to 48
    boxes, classes = boxes_on_canvas((Instance(0, (0, 0, 16, 16), 256), Instance(1, (0, 0, 32, 32), 1024)), placement)
    assert boxes.tolist() == [[0, 0, 16, 16]]
    assert classes.tolist() == [1]


def test_labels_lie_where_the_image_lies() -> None:
    labels = np.zeros((20, 40), np.uint8)
    labels[5:10, 20:30] = 7
    placed = labels_on_canvas(labels, ImageGeometry(canvas=(80, 80)).placement(40, 20))
    expected = np.full((80, 80), IGNORED, np.uint8)
    expected[20:60] = 0
    expected[30:40, 40:60] = 7
    assert np.array_equal(placed, expected)


def test_a_scene_s_boxes_hold_its_label_map_s_things() -> None:
    detection, segmentation = (open_data("digits", objective) for objective in ("detection", "segmentation"))
    assert segmentation.categories == ("background", *detection.categories)
    for index in range(5):
        _, found = make_sample(detection.val[index], LETTERBOX)
        _, labelled = make_sample(segmentation.val[index], LETTERBOX)
        assert len(found.boxes)
        for (x1, y1, x2, y2), category in zip(found.boxes.tolist(), found.classes.tolist(), strict=True):
            inside = labelled.labels[round(y1) : round(y2), round(x1) : round(x2)]
            assert (inside == category + 1).float().mean() > 0.1


def test_mirroring_twice_changes_nothing() -> None:
    pixels, targets = make_sample(open_data("digits", "detection").train[0], LETTERBOX)
    once = mirrored(pixels, targets)
    assert not torch.equal(once[0], pixels)
    assert (once[1].boxes[:, 0] == 64 - targets.boxes[:, 2]).all()
    again = mirrored(*once)
    assert torch.equal(again[0], pixels)
    torch.testing.assert_close(again[1].boxes, targets.boxes)


def test_half_of_the_samples_are_mirrored_the_same_in_every_process() -> None:
    images = [DenseImage("a", partial(Image.effect_mandelbrot, (8, 8), (-3, -2.5, 2, 2.5), 100))]
    plain = Samples(images, [0] * 40, LETTERBOX, None)[0][0]
    changed = [not torch.equal(Samples(images, [0] * 40, LETTERBOX, 7)[index][0], plain) for index in range(40)]
    assert 10 < sum(changed) < 30
    assert changed == [not torch.equal(Samples(images, [0] * 40, LETTERBOX, 7)[index][0], plain) for index in range(40)]


def refuse() -> Image.Image:
    raise DataError("b.jpg: not a readable image")


def test_an_unreadable_image_takes_the_place_of_its_batch() -> None:
    samples = Samples([DenseImage("a", blank), DenseImage("b", refuse)], [0, 1], LETTERBOX, None)
    error = collate([samples[0], samples[1]])
    assert isinstance(error, DataError)
    assert str(error) == "b.jpg: not a readable image"


def test_a_label_map_of_another_size_is_refused() -> None:
    image = DenseImage("a.jpg", blank, labels=lambda: np.zeros((20, 20), np.uint8))
    with pytest.raises(DataError, match=r"a.jpg: its label map has 20x20 pixels, the image 40x20"):
        make_sample(image, LETTERBOX)
