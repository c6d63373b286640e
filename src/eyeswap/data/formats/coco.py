"""COCO instances files: images with the boxes and categories of their objects, as published at cocodataset.org.

Only what detection needs is read: ids, file names, boxes, areas and the crowd flag. Segmentation polygons are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eyeswap.data.formats.boxes import Box, xywh_to_xyxy
from eyeswap.data.formats.record import Record, records, write_compact_json
from eyeswap.errors import DataError
from eyeswap.files import read_json

YEAR = 2017  # of the files that detectors are trained and compared on


@dataclass(frozen=True)
class Instance:
    """An object of an image.

    Attributes:
        category: position of its category in `Instances.categories`.
        box: ``(x1, y1, x2, y2)`` in pixels of the image.
        area: in square pixels; in the official files that of the object's mask, on which size classes are based.
        is_crowd: whether the box stands for many objects that were not annotated one by one.
    """

    category: int
    box: Box
    area: float
    is_crowd: bool = False


@dataclass(frozen=True)
class InstanceImage:
    """An image of an instances file: its id, its file and its objects."""

    image_id: int
    path: Path
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Instances:
    """The content of an instances file; categories and images in the order of the file."""

    categories: tuple[str, ...]
    images: tuple[InstanceImage, ...]


def read_instances(annotations: Path, folder: Path, *, skip_empty: bool = False) -> Instances:
    """Read an instances file.

    Args:
        annotations: such as ``instances_val2017.json``.
        folder: holds the images under their ``file_name``.
        skip_empty: whether to skip boxes without area, of which official training files have a few, instead of
            refusing the file.

    Raises:
        DataError: if the file is not in COCO's format; the message names the row. Whether the images exist is not
            checked, see `check_present`.
    """
    content = Record.of(read_json(annotations), str(annotations))
    try:
        rows = {key: content.items(key) for key in ("categories", "images", "annotations")}
    except DataError as error:
        raise DataError(f"{error}; not a COCO instances file") from None
    if not rows["categories"]:
        raise DataError(f"{annotations}: lists no categories; not a COCO instances file")
    names: dict[int, str] = {}
    for row in records(rows["categories"], annotations, "category"):
        names[row.integer("id")] = row.text("name")
    positions = {category_id: position for position, category_id in enumerate(names)}
    paths: dict[int, Path] = {}
    for row in records(rows["images"], annotations, "image"):
        paths[row.integer("id")] = _image_path(folder, row)
    instances: dict[int, list[Instance]] = {image_id: [] for image_id in paths}
    for index, value in enumerate(rows["annotations"]):
        row = Record.of(value, f"{annotations}: annotations[{index}]")
        image_id = row.integer("image_id")
        if image_id not in instances:
            raise row.fail(f"image_id {image_id} is not among the images")
        instance = _instance(row, positions, skip_empty)
        if instance is not None:
            instances[image_id].append(instance)
    images = (InstanceImage(image_id, path, tuple(instances[image_id])) for image_id, path in paths.items())
    return Instances(tuple(names.values()), tuple(images))


def _instance(row: Record, positions: dict[int, int], skip_empty: bool) -> Instance | None:
    x, y, width, height = row.box("bbox")
    if not (width > 0 and height > 0):
        if skip_empty:
            return None
        raise row.fail(f"bbox of {width:g}x{height:g} pixels has no area")
    category_id = row.integer("category_id")
    if category_id not in positions:
        raise row.fail(f"category_id {category_id} is not among the categories")
    area = row.values.get("area", width * height)
    if type(area) not in (int, float) or not 0 <= area < 1e12:
        raise row.fail(f"field 'area' must be a number of square pixels, found {str(area)[:60]}")
    is_crowd = row.flag("iscrowd") if "iscrowd" in row.values else False
    return Instance(positions[category_id], xywh_to_xyxy((x, y, width, height)), float(area), is_crowd)


def _image_path(folder: Path, row: Record) -> Path:
    name = row.text("file_name")
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise row.fail(f"file_name {name!r} leads out of {folder}")
    return path


def check_present(images: Iterable[InstanceImage], annotations: Path) -> None:
    """Check that the files of images exist; ``annotations`` is the file that names them.

    Raises:
        DataError: naming the first image that is missing.
    """
    for image in images:
        if not image.path.is_file():
            raise DataError(f"{image.path}: no such image; {annotations} names it")


def write_instances(
    annotations: Path, categories: Sequence[str], images: Sequence[InstanceImage], sizes: Sequence[tuple[int, int]]
) -> None:
    """Write an instances file; ``sizes`` gives each image's width and height in pixels."""
    rows = [
        {"id": image.image_id, "file_name": image.path.name, "width": width, "height": height}
        for image, (width, height) in zip(images, sizes, strict=True)
    ]
    objects = [(image.image_id, instance) for image in images for instance in image.instances]
    content = {
        "images": rows,
        "annotations": [_annotation(number, *row) for number, row in enumerate(objects, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
    }
    write_compact_json(annotations, {"info": {}, "licenses": [], **content})


def _annotation(number: int, image_id: int, instance: Instance) -> dict[str, object]:
    x1, y1, x2, y2 = instance.box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": instance.category + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": instance.area,
        "iscrowd": int(instance.is_crowd),
    }
