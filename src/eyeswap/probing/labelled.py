"""Images with labelled objects, which is all that a probe needs: the miniature's scenes, or a COCO instances file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyeswap.data.digits.scene import KINDS, render, sample_scene
from eyeswap.data.formats.boxes import xywh_to_xyxy
from eyeswap.errors import DataError, SpecError
from eyeswap.files import read_json
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
    content = read_json(annotations)
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        things: dict[int, list[Thing]] = {int(entry["id"]): [] for entry in content["images"]}
        for position, entry in enumerate(content["annotations"]):
            if not entry.get("iscrowd", 0):
                things[int(entry["image_id"])].append(_thing(entry, names, f"{annotations}: annotations[{position}]"))
        files = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{annotations}: not a COCO instances file ({type(error).__name__}: {error})") from None
    shown = sorted(image for image, objects in things.items() if objects)
    drawn = np.random.default_rng(seed).permutation(len(shown))[:count]
    images = []
    for image_id in (shown[row] for row in sorted(drawn)):
        path = _inside(folder, files[image_id], annotations)
        images.append(LabelledImage(files[image_id], tuple(things[image_id]), partial(open_picture, path)))
    if not images:
        raise DataError(f"{annotations}: no image has an object")
    return LabelledImages(annotations.name, tuple(names.values()), tuple(images))


def _thing(entry: Mapping[str, Any], names: Mapping[int, str], where: str) -> Thing:
    x, y, width, height = (float(side) for side in entry["bbox"])
    if not (width > 0 and height > 0):
        raise DataError(f"{where}: bbox of {width:g}x{height:g} pixels has no area")
    return Thing(names[int(entry["category_id"])], xywh_to_xyxy((x, y, width, height)))


def _inside(folder: Path, name: str, annotations: Path) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{annotations}: file_name {name!r} leads out of {folder}")
    if not path.is_file():
        raise DataError(f"{path}: no such image; {annotations} names it")
    return path


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
