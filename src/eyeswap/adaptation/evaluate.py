"""Evaluate an adapted network on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from eyeswap.adaptation.classifier import Classifier
from eyeswap.adaptation.data import DenseImage
from eyeswap.adaptation.detector import Detections, Detector
from eyeswap.adaptation.samples import read_labels
from eyeswap.adaptation.scores import average_precision, label_image, mean_iou, to_image, top1_accuracy
from eyeswap.adaptation.segmentor import Segmentor
from eyeswap.geometry import ImageGeometry, Placement

AdaptedNetwork = Classifier | Detector | Segmentor
Prediction = TypeVar("Prediction", Detections, Tensor)


def evaluate(
    network: AdaptedNetwork,
    images: Sequence[DenseImage],
    num_categories: int,
    geometry: ImageGeometry,
    batch: int,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """Return the scores of a network in eval mode, each in 0..1; the names say which.

    Args:
        network: its training mode is restored.
        images: annotated images.
        num_categories: number of categories.
        geometry: how an image becomes pixels.
        batch: images per forward pass.
        advance: called with the number of images done since the last call.

    Raises:
        DataError: if an image or label map cannot be read.
        EnvironmentProblem: if a detector is evaluated without pycocotools.
    """
    was_training = network.training
    network.eval()
    try:
        if isinstance(network, Detector):
            detections = _predictions(network.predict, images, geometry, batch, _device(network), advance)
            found = [to_image(each, placement) for _, placement, each in detections]
            return average_precision(images, found, num_categories)
        logits = _predictions(network.predict, images, geometry, batch, _device(network), advance)
        if isinstance(network, Classifier):
            return top1_accuracy([(image, int(each.argmax())) for image, _, each in logits])
        pairs = (
            (read_labels(image, placement.image_size), label_image(each, placement))
            for image, placement, each in logits
        )
        return mean_iou(pairs, num_categories)
    finally:
        network.train(was_training)


def _device(network: AdaptedNetwork) -> torch.device:
    return next(network.parameters()).device


def _predictions(
    predict: Callable[[Tensor], list[Prediction]],
    images: Sequence[DenseImage],
    geometry: ImageGeometry,
    batch: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> Iterator[tuple[DenseImage, Placement, Prediction]]:
    for first in range(0, len(images), batch):
        chunk = [images[index] for index in range(first, min(first + batch, len(images)))]
        placed = [geometry.place(image.open()) for image in chunk]
        predictions = predict(torch.stack([pixels for pixels, _ in placed]).to(device))
        for image, (_, placement), prediction in zip(chunk, placed, predictions, strict=True):
            yield image, placement, prediction
        advance(len(chunk))
