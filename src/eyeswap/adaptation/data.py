"""Annotated images: the miniature's scenes, COCO instances, ADE20K label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyeswap.backbones.catalog import Objective
from eyeswap.data.digits.dense import BACKGROUND, dense_scene, scene_instances
from eyeswap.data.digits.scene import KINDS, Split, label_map, render
from eyeswap.data.formats import ade20k
from eyeswap.data.formats.coco import YEAR, Instance, InstanceImage, check_present, read_instances
from eyeswap.digests import known_sha256
from eyeswap.errors import DataError
from eyeswap.files import digest
from eyeswap.images import open_image

LabelMap = npt.NDArray[np.uint8]

DIGITS_TRAIN, DIGITS_VAL = 8000, 500  # scenes by default


@dataclass(frozen=True)
class DenseImage:
    """An annotated image.

    Attributes:
        name: of its file or scene, for messages.
        open: returns the image, RGB.
        instances: its objects; empty for segmentation.
        labels: returns the category of every pixel, ``[H, W]``, `ade20k.IGNORED` where there is none; None except
            for segmentation.
    """

    name: str
    open: Callable[[], Image.Image]
    instances: tuple[Instance, ...] = ()
    labels: Callable[[], LabelMap] | None = None


@dataclass(frozen=True)
class DenseData:
    """Data of an objective.

    Attributes:
        source: ``digits``, or the name of the data's folder.
        categories: names, in the order of their numbers in the annotations.
        train: training images.
        val: validation images; for digits, with handwriting that no training image shows.
        digest: of the annotations, by which a resumed run recognises its data.
    """

    source: str
    categories: tuple[str, ...]
    train: Sequence[DenseImage]
    val: Sequence[DenseImage]
    digest: str


class DigitsScenes(Sequence[DenseImage]):
    """Scenes of the embedded data set, each drawn when it is asked for; the same number is always the same scene."""

    def __init__(self, objective: Objective, split: Split, count: int) -> None:
        self._objective, self._split, self._count = objective, split, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> DenseImage:  # type: ignore[override]  # no slices
        if not 0 <= index < self._count:
            raise IndexError(index)
        scene = dense_scene(self._split, index)
        name = f"digits-{self._split}-{index}"
        if self._objective == "segmentation":
            return DenseImage(name, partial(render, scene), labels=partial(label_map, scene))
        return DenseImage(name, partial(render, scene), scene_instances(scene))


def open_data(data: str, objective: Objective, train_images: int | None = None) -> DenseData:
    """Return the data that a name stands for.

    Args:
        data: ``digits``; or a folder in the official layout: COCO's for detection and classification
            (``annotations/instances_{train,val}2017.json`` and ``{train,val}2017/``), ADE20K's for segmentation
            (``images/``, ``annotations/`` and ``objectInfo150.txt``).
        objective: which annotations are needed.
        train_images: number of training scenes of digits.

    Raises:
        DataError: if a file is missing or not in its format.
    """
    if data == "digits":
        categories = (BACKGROUND, *KINDS) if objective == "segmentation" else KINDS
        train = DigitsScenes(objective, "train", train_images or DIGITS_TRAIN)
        return DenseData("digits", categories, train, DigitsScenes(objective, "val", DIGITS_VAL), digest("digits"))
    root = Path(data)
    if not root.is_dir():
        raise DataError(f"{data}: no such folder; write digits, or a folder in COCO's or ADE20K's official layout")
    return _ade20k(root) if objective == "segmentation" else _coco(root)


def _coco(root: Path) -> DenseData:
    """Read COCO; training images without objects are left out, as usual."""
    files = {part: root / "annotations" / f"instances_{part}{YEAR}.json" for part in ("train", "val")}
    content = {part: read_instances(file, root / f"{part}{YEAR}", skip_empty=True) for part, file in files.items()}
    if content["train"].categories != content["val"].categories:
        raise DataError(f"{files['val']}: its categories differ from those of {files['train'].name}")
    train = [image for image in content["train"].images if any(not each.is_crowd for each in image.instances)]
    val = content["val"].images
    for images, file in ((train, files["train"]), (val, files["val"])):
        if not images:
            raise DataError(f"{file}: no image has an object")
        check_present(images, file)
    sums = [known_sha256(file) for file in files.values()]
    return DenseData(root.resolve().name, content["train"].categories, _dense(train), _dense(val), digest(sums))


def _dense(images: Sequence[InstanceImage]) -> list[DenseImage]:
    return [DenseImage(image.path.name, partial(open_image, image.path), image.instances) for image in images]


def _ade20k(root: Path) -> DenseData:
    categories = ade20k.read_categories(root)
    pairs = {part: ade20k.list_images(root, part) for part in ade20k.PARTS}
    sizes = [
        (path.name, path.stat().st_size) for part in pairs.values() for pair in part for path in pair
    ]  # instead of the bytes of 22,000 label maps

    def dense(part: ade20k.Part) -> list[DenseImage]:
        read = partial(ade20k.read_label_map, num_categories=len(categories))
        return [
            DenseImage(image.name, partial(open_image, image), labels=partial(read, labels))
            for image, labels in pairs[part]
        ]

    return DenseData(
        root.resolve().name, categories, dense("training"), dense("validation"), digest([categories, sizes])
    )
