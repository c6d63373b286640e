"""COCO instances and ADE20K label maps: what is written is read, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyeswap.data.formats import ade20k
from eyeswap.data.formats.coco import Instance, InstanceImage, check_present, read_instances, write_instances
from eyeswap.errors import DataError

IMAGES = [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}]
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
ANNOTATION = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 1}


def instances_file(folder: Path, **changes: Any) -> Path:
    content = {"images": IMAGES, "annotations": [ANNOTATION], "categories": CATEGORIES, **changes}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def test_instances_are_read_with_the_files_order_and_crowds(tmp_path: Path) -> None:
    content = read_instances(instances_file(tmp_path), tmp_path / "images")
    assert content.categories == ("dog", "person")
    assert [(image.image_id, image.path.name) for image in content.images] == [(7, "a.jpg"), (3, "b.jpg")]
    assert content.images[0].instances == (Instance(1, (1, 2, 4, 6), 9.5, is_crowd=True),)
    assert content.images[1].instances == ()


def test_instances_come_back_as_they_were_written(tmp_path: Path) -> None:
    images = (
        InstanceImage(4, tmp_path / "a.jpg", (Instance(0, (1.5, 2, 4, 6), 10), Instance(1, (0, 0, 9, 9), 81, True))),
        InstanceImage(5, tmp_path / "b.jpg", ()),
    )
    write_instances(tmp_path / "instances.json", ("cat", "dog"), images, [(40, 30), (20, 10)])
    content = read_instances(tmp_path / "instances.json", tmp_path)
    assert (content.categories, content.images) == (("cat", "dog"), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": {}}, "'annotations' must be a list.*not a COCO instances file"),
        ({"categories": []}, "lists no categories"),
        ({"images": [{"id": 7}]}, "image 1: field 'file_name' is missing"),
        ({"images": [{"id": 7, "file_name": "../a.jpg"}]}, "leads out of"),
        ({"images": [{"id": 7, "file_name": "a\0.jpg"}]}, "leads out of"),
        ({"annotations": [{**ANNOTATION, "image_id": 8}]}, r"annotations\[0\]: image_id 8 is not among"),
        ({"annotations": [{**ANNOTATION, "category_id": 2}]}, "category_id 2 is not among"),
        ({"annotations": [{**ANNOTATION, "bbox": [1, 2, 3]}]}, "must be a list of four numbers"),
        ({"annotations": [{**ANNOTATION, "bbox": [0, 0, 5, 0]}]}, "bbox of 5x0 pixels has no area"),
        ({"annotations": [{**ANNOTATION, "area": -1}]}, "field 'area' must be a number"),
        ({"annotations": [{**ANNOTATION, "iscrowd": 2}]}, "must be true or false"),
    ],
)
def test_a_broken_instances_file_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_instances(instances_file(tmp_path, **changes), tmp_path)


def test_boxes_without_area_can_be_skipped(tmp_path: Path) -> None:
    path = instances_file(tmp_path, annotations=[{**ANNOTATION, "bbox": [0, 0, 5, 0]}, ANNOTATION])
    assert len(read_instances(path, tmp_path, skip_empty=True).images[0].instances) == 1


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    path = instances_file(tmp_path)
    with pytest.raises(DataError, match=r"a.jpg: no such image; .*instances.json names it"):
        check_present(read_instances(path, tmp_path).images, path)


def ade(root: Path) -> Path:
    ade20k.write_categories(root, ["wall", "sky"])
    labels = np.array([[0, 1], [ade20k.IGNORED, 0]], np.uint8)
    for part in ade20k.PARTS:
        (root / "images" / part).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(root / "images" / part / "a.jpg")
        ade20k.write_label_map(root / "annotations" / part / "a.png", labels)
    return root


def test_label_maps_and_categories_come_back_as_they_were_written(tmp_path: Path) -> None:
    root = ade(tmp_path)
    assert ade20k.read_categories(root) == ("wall", "sky")
    ((image, label_map),) = ade20k.list_images(root, "validation")
    assert (image.name, label_map.name) == ("a.jpg", "a.png")
    with Image.open(label_map) as stored:
        assert np.asarray(stored).tolist() == [[1, 2], [0, 1]]  # as published: 0 is unlabelled
    assert ade20k.read_label_map(label_map, 2).tolist() == [[0, 1], [255, 0]]


def test_a_broken_folder_of_label_maps_is_refused_in_one_line(tmp_path: Path) -> None:
    root = ade(tmp_path)
    label_map = root / "annotations" / "training" / "a.png"
    with pytest.raises(DataError, match="has label 2, beyond the 1 categories"):
        ade20k.read_label_map(label_map, 1)
    Image.new("RGB", (2, 2)).save(label_map)
    with pytest.raises(DataError, match="one 8-bit channel, this one is RGB"):
        ade20k.read_label_map(label_map, 2)
    label_map.write_bytes(b"no image")
    with pytest.raises(DataError, match="not a readable image"):
        ade20k.read_label_map(label_map, 2)
    label_map.unlink()
    with pytest.raises(DataError, match=r"a.png: no such label map; a.jpg needs it"):
        ade20k.list_images(root, "training")
    with pytest.raises(DataError, match="no images"):
        ade20k.list_images(tmp_path / "elsewhere", "training")
    (root / ade20k.CATEGORIES_FILE).write_text("Idx\tName\n2\twall\n")
    with pytest.raises(DataError, match="line 2: expected category 1"):
        ade20k.read_categories(root)
    (root / ade20k.CATEGORIES_FILE).unlink()
    with pytest.raises(DataError, match="official layout"):
        ade20k.read_categories(root)


def test_a_label_map_with_a_palette_keeps_its_numbers(tmp_path: Path) -> None:
    stored = Image.fromarray(np.array([[1, 2]], np.uint8)).convert("P")
    stored.putpalette([200, 100, 50] * 256)
    stored.putdata([1, 2])
    stored.save(tmp_path / "a.png")
    assert ade20k.read_label_map(tmp_path / "a.png", 2).tolist() == [[0, 1]]
