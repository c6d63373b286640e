"""Images with labelled objects, which is all that a probe needs: the miniature's scenes, or a COCO instances file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from eyeswap.data.digits.scene import KINDS, render, sample_scene
from eyeswap.data.formats.coco import InstanceImage, check_present, read_instances
from eyeswap.errors import DataError, SpecError
from eyeswap.geometry import Box
from eyeswap.images import open_picture

_DIGITS_SEED = 3  # the first number of every probe scene's generator, so that no benchmark shows the same scene


@dataclass(frozen=True)
class Thing:
    """An object of an image: its category, and its box ``(x0, y0, x1, y1)`` in pixels of the image."""

    category: str
    box: Box


@dataclass(frozen=True)
class LabelledImage:
    """An image whose objects are known.

    Attributes:
        name: unique among the images of a probe.
        things: the objects, all of them as far as the categories go.
        open: returns the pixels.
    """

    name: str
    things: tuple[Thing, ...]
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class LabelledImages:
    """The images of a probe and the categories that their objects have; ``source`` says where they come from."""

    source: str
    categories: tuple[str, ...]
    images: tuple[LabelledImage, ...]


def digits_images(count: int, seed: int = 0) -> LabelledImages:
    """Return scenes of the embedded data set, with the handwriting that neither pretraining nor tuning has seen."""
    images = []
    for index in range(count):
        scene = sample_scene(np.random.default_rng([_DIGITS_SEED, seed, index]), "val")
        things = tuple(Thing(thing.kind, thing.box) for thing in scene.things)
        images.append(LabelledImage(f"digits-{index}", things, partial(render, scene)))
    return LabelledImages("digits", KINDS, tuple(images))


def coco_images(annotations: Path, folder: Path, count: int, seed: int = 0) -> LabelledImages:
    """Return images of a COCO instances file, drawn at random; crowds are left out.

    Args:
        annotations: such as ``instances_val2017.json``.
        folder: holds the images under their ``file_name``.
        count: most images to take; those without any object do not count.
        seed: of the draw.

    Raises:
        DataError: if the file is not in COCO's format, or an image is missing.
    """
    content = read_instances(annotations, folder)
    shown = [image for image in content.images if any(not instance.is_crowd for instance in image.instances)]
    if not shown:
        raise DataError(f"{annotations}: no image has an object")
    shown.sort(key=lambda image: image.image_id)
    drawn = np.random.default_rng(seed).permutation(len(shown))[:count]
    chosen = [shown[row] for row in sorted(drawn)]
    check_present(chosen, annotations)
    images = tuple(_labelled(image, folder, content.categories) for image in chosen)
    return LabelledImages(annotations.name, content.categories, images)


def _labelled(image: InstanceImage, folder: Path, categories: tuple[str, ...]) -> LabelledImage:
    things = tuple(Thing(categories[each.category], each.box) for each in image.instances if not each.is_crowd)
    return LabelledImage(image.path.relative_to(folder).as_posix(), things, partial(open_picture, image.path))


def load_images(data: str, folder: Path | None, count: int, seed: int) -> LabelledImages:
    """Return the images that ``--data`` names: ``digits``, or a COCO instances file with its image folder.

    Raises:
        SpecError: if a COCO file comes without a folder.
        DataError: as `coco_images`.
    """
    if data == "digits":
        return digits_images(count, seed)
    if folder is None:
        raise SpecError(f"--data {data}: a COCO instances file needs --images, the folder of its images")
    return coco_images(Path(data), folder, count, seed)
