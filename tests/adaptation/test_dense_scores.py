"""Scores of predictions whose score is known: perfect ones, shifted ones, none."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from eyeswap.adaptation.data import DenseImage
from eyeswap.adaptation.detector import Detections
from eyeswap.adaptation.scores import FoundObjects, average_precision, label_image, mean_iou, to_image, top1_accuracy
from eyeswap.data.formats.ade20k import IGNORED
from eyeswap.data.formats.coco import Instance
from eyeswap.errors import EnvironmentProblem
from eyeswap.geometry import ImageGeometry, Placement


def image(*boxes: tuple[float, float, float, float], crowd: bool = False) -> DenseImage:
    instances = tuple(Instance(0, box, (box[2] - box[0]) * (box[3] - box[1]), crowd) for box in boxes)
    return DenseImage("image", lambda: None, instances)


def found(*boxes: tuple[float, float, float, float], score: float = 0.9, category: int = 0) -> FoundObjects:
    rows = np.array(boxes, np.float64).reshape(-1, 4)
    return FoundObjects(rows, np.full(len(rows), category), np.full(len(rows), score))


def test_perfect_boxes_have_an_average_precision_of_one() -> None:
    pytest.importorskip("pycocotools")
    images = [image((0, 0, 10, 10), (20, 20, 60, 60)), image((5, 5, 200, 200))]
    scores = average_precision(images, [found(*(each.box for each in one.instances)) for one in images], 1)
    assert scores == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"), 1))


def test_shifted_boxes_count_at_the_thresholds_that_they_reach() -> None:
    pytest.importorskip("pycocotools")
    # 10 x 10 shifted by 2: IoU 80 / 120 = 0.667, above 0.50, 0.55, 0.60 and 0.65 of the ten thresholds.
    scores = average_precision([image((0, 0, 10, 10))], [found((2, 0, 12, 10))], 1)
    assert scores == pytest.approx({"AP": 0.4, "AP50": 1, "AP75": 0, "AP small": 0.4})


def test_a_false_box_before_the_right_one_halves_precision() -> None:
    pytest.importorskip("pycocotools")
    boxes = found((50, 50, 60, 60), (0, 0, 10, 10))
    both = FoundObjects(boxes.boxes, boxes.classes, np.array([0.9, 0.8]))
    assert average_precision([image((0, 0, 10, 10))], [both], 1)["AP"] == pytest.approx(0.5)


def test_boxes_in_crowds_do_not_count_and_no_boxes_score_nothing() -> None:
    pytest.importorskip("pycocotools")
    alone, together = image((0, 0, 10, 10)), image((20, 20, 90, 90), crowd=True)
    crowd = DenseImage("image", lambda: None, (*alone.instances, *together.instances))
    assert average_precision([crowd], [found((0, 0, 10, 10), (30, 30, 40, 40))], 1)["AP"] == pytest.approx(1)
    assert average_precision([crowd], [found()], 1) == {"AP": 0, "AP50": 0, "AP75": 0}


def test_without_pycocotools_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'eyeswap\[coco\]'"):
        average_precision([image((0, 0, 10, 10))], [found()], 1)


def test_detections_return_to_the_image() -> None:
    placement = ImageGeometry(canvas=(64, 64)).placement(128, 64)
    on_canvas = Detections(torch.tensor([[0.0, 10, 32, 48]]), torch.tensor([2]), torch.tensor([0.5]))
    assert to_image(on_canvas, placement).boxes.tolist() == [[0, 0, 64, 64]]  # the padding above is clipped


def test_mean_iou_of_perfect_and_shifted_maps() -> None:
    true = np.zeros((4, 4), np.uint8)
    true[:, 2:] = 1
    assert mean_iou([(true, true)], 2) == {"mIoU": 1, "pixel accuracy": 1}
    shifted = np.zeros((4, 4), np.uint8)
    shifted[:, 3:] = 1  # category 0: 8 of 12, category 1: 4 of 8; the third occurs nowhere
    assert mean_iou([(true, shifted)], 3) == {"mIoU": pytest.approx((8 / 12 + 4 / 8) / 2), "pixel accuracy": 0.75}
    hidden = np.where(true != shifted, IGNORED, true).astype(np.uint8)
    assert mean_iou([(hidden, shifted)], 2)["mIoU"] == 1


def test_logits_are_read_at_the_pixels_of_the_image() -> None:
    placement = ImageGeometry(canvas=(16, 16)).placement(8, 4)  # doubled, 4 pixels of padding above
    true = np.zeros((4, 8), np.uint8)
    true[:, 4:] = 1
    logits = torch.zeros(2, 16, 16)
    logits[1, :, 8:] = 1
    logits[0, :4] = 9  # of the padding, which no pixel of the image sees
    assert np.array_equal(label_image(logits, placement), np.where(true, 1, 0))
    assert label_image(logits, Placement((3, 2), (16, 16), (1.0, 1.0), (-20.0, 5.0))).shape == (2, 3)  # beside it


def test_an_image_is_named_right_if_it_has_an_object_of_the_category() -> None:
    boxes = (0.0, 0.0, 9.0, 9.0)
    two = DenseImage("two", lambda: None, (Instance(3, boxes, 81), Instance(5, boxes, 81)))
    crowd = DenseImage("crowd", lambda: None, (Instance(3, boxes, 81, is_crowd=True),))
    assert top1_accuracy([(two, 5), (two, 4), (crowd, 3)]) == {"top-1": 0.5}
    assert top1_accuracy([(crowd, 3)]) == {"top-1": 0}
