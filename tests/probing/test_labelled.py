"""Labelled images: scenes of the miniature, and COCO instances files as they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from eyeswap.errors import DataError, SpecError
from eyeswap.probing.labelled import digits_images, load_images

INSTANCES = {
    "images": [{"id": 3, "file_name": "a.jpg"}, {"id": 5, "file_name": "b.jpg"}, {"id": 9, "file_name": "empty.jpg"}],
    "annotations": [
        {"image_id": 3, "category_id": 18, "bbox": [2, 4, 10, 20], "iscrowd": 0},
        {"image_id": 3, "category_id": 1, "bbox": [0, 0, 30, 30], "iscrowd": 1},
        {"image_id": 5, "category_id": 1, "bbox": [1, 1, 5, 5]},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
}


def coco(folder: Path, content: object) -> Path:
    (folder / "instances.json").write_text(json.dumps(content))
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder / "instances.json"


def test_scenes_are_the_same_every_time_and_their_boxes_lie_inside() -> None:
    first, again = digits_images(5), digits_images(5)
    for one, other in zip(first.images, again.images, strict=True):
        assert one.things == other.things
        assert one.open().tobytes() == other.open().tobytes()
        width, height = one.open().size
        for thing in one.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert thing.category in first.categories
    assert digits_images(5, seed=1).images[0].things != first.images[0].things


def test_a_coco_file_is_read_without_crowds_and_empty_images(tmp_path: Path) -> None:
    images = load_images(str(coco(tmp_path, INSTANCES)), tmp_path, 10, 0)
    assert images.categories == ("person", "dog")
    assert [image.name for image in images.images] == ["a.jpg", "b.jpg"]
    (dog,) = images.images[0].things
    assert (dog.category, dog.box) == ("dog", (2, 4, 12, 24))
    assert images.images[0].open().size == (40, 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": []}, "not a COCO instances file"),
        ({"annotations": [{"image_id": 3, "category_id": 1, "bbox": [0, 0, 0, 5]}]}, r"annotations\[0\]: bbox of 0x5"),
        ({"annotations": []}, "no image has an object"),
        ({"images": [{"id": 3, "file_name": "../a.jpg"}, *INSTANCES["images"][1:]]}, "leads out of"),
        ({"images": [{"id": 3, "file_name": "gone.jpg"}, *INSTANCES["images"][1:]]}, "no such image"),
    ],
)
def test_what_is_wrong_with_a_coco_file_is_said_in_one_line(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_images(str(coco(tmp_path, INSTANCES | change)), tmp_path, 10, 0)
    assert "\n" not in str(raised.value)


def test_a_coco_file_needs_the_folder_of_its_images(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--images"):
        load_images(str(tmp_path / "instances.json"), None, 10, 0)
