"""Scores: average precision by COCO's protocol, mean intersection over union, and accuracy.

The first two are computed on the original images: boxes are moved back from the canvas, and logits are sampled at the
pixels of the image. Average precision is that of the official implementation, pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.adaptation.data import DenseImage, LabelMap
from eyeswap.adaptation.detector import Detections
from eyeswap.data.formats.ade20k import IGNORED
from eyeswap.errors import EnvironmentProblem
from eyeswap.geometry import Placement

# Names of the first six numbers of COCO's summary for boxes, in its order.
_COCO_METRICS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")


@dataclass(frozen=True)
class FoundObjects:
    """Detections in one image: boxes ``[n, 4]`` in pixels of the image, categories ``[n]``, scores ``[n]``."""

    boxes: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def require_pycocotools() -> Any:
    """Return the modules of pycocotools that compute average precision.

    Raises:
        EnvironmentProblem: if it is not installed.
    """
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        raise EnvironmentProblem("average precision needs pycocotools; run: pip install 'eyeswap[coco]'") from None
    return coco, cocoeval


def to_image(detections: Detections, placement: Placement) -> FoundObjects:
    """Return detections with boxes moved from the canvas to the image and clipped to it."""
    width, height = placement.image_size
    canvas_boxes = detections.boxes.double().cpu().tolist()
    boxes = [placement.convert((x1, y1, x2, y2), "canvas", "image") for x1, y1, x2, y2 in canvas_boxes]
    clipped = np.array(boxes, np.float64).reshape(-1, 4).clip(0, [width, height, width, height])
    return FoundObjects(clipped, detections.classes.cpu().numpy(), detections.scores.double().cpu().numpy())


def average_precision(
    images: Sequence[DenseImage], found: Sequence[FoundObjects], num_categories: int
) -> dict[str, float]:
    """Return average precision by COCO's protocol, each in 0..1.

    Args:
        images: the images with their objects, crowds included.
        found: the detections in each image.
        num_categories: number of categories.

    Returns:
        ``AP`` (mean over IoU 0.50 to 0.95), ``AP50``, ``AP75``, and ``AP small``, ``AP medium`` and ``AP large`` as far
        as there are objects of that size.

    Raises:
        EnvironmentProblem: if pycocotools is not installed.
    """
    coco, cocoeval = require_pycocotools()
    objects = [(number, instance) for number, image in enumerate(images, start=1) for instance in image.instances]
    truth = {
        "info": {},
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "categories": [{"id": number} for number in range(1, num_categories + 1)],
        "annotations": [
            {
                "id": annotation_id,
                "image_id": number,
                "category_id": instance.category + 1,
                "bbox": _xywh(instance.box),
                "area": instance.area,
                "iscrowd": int(instance.is_crowd),
            }
            for annotation_id, (number, instance) in enumerate(objects, start=1)
        ],
    }
    results = [
        {"image_id": number, "category_id": int(category) + 1, "bbox": _xywh(box), "score": float(score)}
        for number, detected in enumerate(found, start=1)
        for box, category, score in zip(detected.boxes, detected.classes, detected.scores, strict=True)
    ]
    if not results:
        return dict.fromkeys(_COCO_METRICS[:3], 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        dataset = coco.COCO()
        dataset.dataset = truth
        dataset.createIndex()
        evaluation = cocoeval.COCOeval(dataset, dataset.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = zip(_COCO_METRICS, evaluation.stats, strict=False)
    return {name: float(value) for name, value in numbers if value >= 0}  # -1: no object of that size


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def label_image(logits: Tensor, placement: Placement) -> LabelMap:
    """Return the likeliest category of every pixel of the image, ``[h, w]``; logits are sampled bilinearly.

    Args:
        logits: ``[C, rows, columns]`` over the whole canvas.
        placement: the position of the image on the canvas.
    """
    (width, height), (canvas_width, canvas_height) = placement.image_size, placement.canvas_size
    x = (torch.arange(width, device=logits.device) + 0.5) * placement.scale[0] + placement.offset[0]
    y = (torch.arange(height, device=logits.device) + 0.5) * placement.scale[1] + placement.offset[1]
    x, y = 2 * x / canvas_width - 1, 2 * y / canvas_height - 1  # grid_sample's frame
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    sampled = F.grid_sample(logits[None], grid[None].to(logits.dtype), padding_mode="border", align_corners=False)
    labels: LabelMap = sampled[0].argmax(0).byte().cpu().numpy()
    return labels


def mean_iou(pairs: Iterable[tuple[LabelMap, LabelMap]], num_categories: int) -> dict[str, float]:
    """Return the mean IoU over categories and the share of right pixels, as in ADE20K's benchmark.

    Args:
        pairs: true and predicted label maps ``[h, w]`` of every image; pixels without a true label do not count.
        num_categories: number of categories; those that neither the truth nor a prediction has are left out.

    Returns:
        ``mIoU`` and ``pixel accuracy``, each in 0..1.
    """
    confusion = np.zeros((num_categories, num_categories), np.int64)  # [true, predicted]
    for true, predicted in pairs:
        is_labelled = true != IGNORED
        index = true[is_labelled].astype(np.int64) * num_categories + predicted[is_labelled]
        confusion += np.bincount(index, minlength=num_categories**2).reshape(num_categories, num_categories)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    occurs = union > 0
    iou = hits[occurs] / union[occurs]
    return {"mIoU": float(iou.mean()) if occurs.any() else 0.0, "pixel accuracy": hits.sum() / max(1, confusion.sum())}


def top1_accuracy(predictions: Sequence[tuple[DenseImage, int]]) -> dict[str, float]:
    """Return ``top-1``, the share of images with objects in which there is one of the likeliest category, in 0..1.

    Args:
        predictions: every image with the category that its classifier finds likeliest.
    """
    hits = [
        any(instance.category == category for instance in image.instances if not instance.is_crowd)
        for image, category in predictions
        if any(not instance.is_crowd for instance in image.instances)
    ]
    return {"top-1": float(np.mean(hits)) if hits else 0.0}
