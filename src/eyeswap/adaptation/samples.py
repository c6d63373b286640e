"""Training samples: images on the backbone's canvas, with their objects or label maps in the canvas's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from eyeswap.adaptation.data import DenseImage, LabelMap
from eyeswap.data.formats.ade20k import IGNORED
from eyeswap.data.formats.coco import Instance
from eyeswap.errors import DataError, EyeswapError
from eyeswap.geometry import ImageGeometry, Placement

_LEAST_SIDE_PX = 1.0  # of a box on the canvas; what is left of it after a crop or shrinking is no object


@dataclass(frozen=True)
class Targets:
    """What a training image shows, in pixels of the canvas.

    Attributes:
        boxes: ``[n, 4]`` float32, ``(x1, y1, x2, y2)``, inside the canvas; for detection.
        classes: ``[n]`` int64.
        labels: ``[H, W]`` uint8, `IGNORED` beside the image; for segmentation.
    """

    boxes: Tensor
    classes: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """Return the targets on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Targets(self.boxes.to(device), self.classes.to(device), labels)


Sample = tuple[Tensor, Targets]


class Samples(Dataset[Sample | EyeswapError]):
    """Training samples in a given order.

    An image that cannot be read gives its error as an item: an error raised in a worker process would arrive as a
    traceback of many lines.
    """

    def __init__(
        self, images: Sequence[DenseImage], rows: Sequence[int], geometry: ImageGeometry, mirror_seed: int | None
    ) -> None:
        """Prepare samples.

        Args:
            images: the images.
            rows: position in ``images`` of every sample.
            geometry: how an image becomes pixels.
            mirror_seed: seed by which half of the samples are mirrored; None mirrors none.
        """
        self._images, self._rows, self._geometry = images, rows, geometry
        self._mirrored = np.zeros(len(rows), bool)
        if mirror_seed is not None:
            self._mirrored = np.random.default_rng([mirror_seed, 1]).random(len(rows)) < 0.5

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample | EyeswapError:
        """Return the pixels ``[3, H, W]`` and targets of a sample, or the error of its image."""
        try:
            pixels, targets = make_sample(self._images[self._rows[index]], self._geometry)
        except EyeswapError as error:
            return error
        return mirrored(pixels, targets) if self._mirrored[index] else (pixels, targets)


def collate(items: list[Sample | EyeswapError]) -> tuple[Tensor, list[Targets]] | EyeswapError:
    """Join samples into pixels ``[B, 3, H, W]`` and a list of targets; the first error takes their place."""
    samples = []
    for item in items:
        if isinstance(item, EyeswapError):
            return item
        samples.append(item)
    return torch.stack([pixels for pixels, _ in samples]), [targets for _, targets in samples]


def make_sample(image: DenseImage, geometry: ImageGeometry) -> Sample:
    """Return the pixels ``[3, H, W]`` and targets of an image.

    Raises:
        DataError: if the image or its label map cannot be read, or their sizes differ.
    """
    picture = image.open()
    pixels, placement = geometry.place(picture)
    boxes, classes = boxes_on_canvas(image.instances, placement)
    if image.labels is None:
        return pixels, Targets(boxes, classes)
    labels = read_labels(image, picture.size)
    return pixels, Targets(boxes, classes, torch.from_numpy(labels_on_canvas(labels, placement)))


def read_labels(image: DenseImage, size: tuple[int, int]) -> LabelMap:
    """Return the label map ``[H, W]`` of an image of ``size`` (width, height).

    Raises:
        DataError: if the image has none, or one of another size.
    """
    if image.labels is None:
        raise DataError(f"{image.name}: has no label map")
    labels = image.labels()
    if labels.shape != size[::-1]:
        height, width = labels.shape
        raise DataError(f"{image.name}: its label map has {width}x{height} pixels, the image {size[0]}x{size[1]}")
    return labels


def boxes_on_canvas(instances: Sequence[Instance], placement: Placement) -> tuple[Tensor, Tensor]:
    """Return boxes ``[n, 4]`` in canvas pixels and classes ``[n]`` of the objects that the canvas shows, not crowds."""
    width, height = placement.canvas_size
    kept = [instance for instance in instances if not instance.is_crowd]
    boxes = torch.tensor([placement.to_canvas(instance.box) for instance in kept], dtype=torch.float32).view(-1, 4)
    boxes = boxes.clamp(torch.zeros(4), torch.tensor([width, height, width, height], dtype=torch.float32))
    is_shown = ((boxes[:, 2:] - boxes[:, :2]) >= _LEAST_SIDE_PX).all(1)
    classes = torch.tensor([instance.category for instance in kept], dtype=torch.int64)
    return boxes[is_shown], classes[is_shown]


def labels_on_canvas(labels: LabelMap, placement: Placement) -> LabelMap:
    """Place a label map ``[h, w]`` on the canvas ``[H, W]`` by the nearest pixel, with `IGNORED` beside the image."""
    (scale_x, scale_y), (left, top) = placement.scale, placement.offset
    to_image = (1 / scale_x, 0.0, -left / scale_x, 0.0, 1 / scale_y, -top / scale_y)
    placed = Image.fromarray(labels).transform(
        placement.canvas_size, Image.Transform.AFFINE, to_image, Image.Resampling.NEAREST, fillcolor=IGNORED
    )
    return np.array(placed, dtype=np.uint8)


def mirrored(pixels: Tensor, targets: Targets) -> Sample:
    """Mirror the canvas ``[3, H, W]`` and its targets left to right."""
    width = pixels.shape[2]
    x1, y1, x2, y2 = targets.boxes.unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    labels = None if targets.labels is None else targets.labels.flip(1)
    return pixels.flip(2), Targets(boxes, targets.classes, labels)
