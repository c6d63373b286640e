"""ADE20K scene parsing in its official layout: a photograph and a label map for every image.

ADEChallengeData2016/objectInfo150.txt                     number, ..., name of each category
ADEChallengeData2016/images/{training,validation}/*.jpg
ADEChallengeData2016/annotations/{training,validation}/*.png   0 is unlabelled, 1 the first category
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyeswap.errors import DataError, MissingFileError
from eyeswap.files import atomic_path, write_text
from eyeswap.images import open_labels

CATEGORIES_FILE = "objectInfo150.txt"
IGNORED = 255  # pixels without a label, in label maps as read
Part = Literal["training", "validation"]
PARTS: tuple[Part, ...] = get_args(Part)


def read_categories(root: Path) -> tuple[str, ...]:
    """Return the names of the categories in the order of their numbers.

    Raises:
        DataError: if ``objectInfo150.txt`` is missing or not in the official format.
    """
    path = root / CATEGORIES_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; the folder must have ADE20K's official layout") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    names: list[str] = []
    for line in lines[1:]:  # below the header
        fields = line.split("\t")
        if len(fields) < 2 or fields[0].strip() != str(len(names) + 1):
            raise DataError(f"{path}: line {len(names) + 2}: expected category {len(names) + 1}, fields apart by tabs")
        names.append(fields[-1].strip())
    if not 0 < len(names) < IGNORED:
        raise DataError(f"{path}: lists {len(names)} categories, expected 1 to {IGNORED - 1}")
    return tuple(names)


def list_images(root: Path, part: Part) -> list[tuple[Path, Path]]:
    """Return the image and the label map of every example, by name.

    Raises:
        DataError: if the folder is missing or empty, or an image has no label map.
    """
    folder, labels = root / "images" / part, root / "annotations" / part
    images = sorted(folder.glob("*.jpg"))
    if not images:
        raise MissingFileError(f"{folder}: no images; the folder must have ADE20K's official layout")
    pairs = [(image, labels / f"{image.stem}.png") for image in images]
    for image, label_map in pairs:
        if not label_map.is_file():
            raise DataError(f"{label_map}: no such label map; {image.name} needs it")
    return pairs


def read_label_map(path: Path, num_categories: int) -> npt.NDArray[np.uint8]:
    """Return a label map ``[H, W]``: categories counted from 0, and `IGNORED` where there is none.

    Raises:
        DataError: if it is not a label map, or has a label beyond the categories.
    """
    labels = open_labels(path)
    if labels.max(initial=0) > num_categories:
        raise DataError(f"{path}: has label {labels.max()}, beyond the {num_categories} categories")
    return labels - np.uint8(1)  # 0 becomes 255


def write_categories(root: Path, names: Sequence[str]) -> None:
    """Write ``objectInfo150.txt`` with the official columns; shares and counts are left empty."""
    rows = [f"{number}\t\t\t\t\t{name}" for number, name in enumerate(names, start=1)]
    write_text(root / CATEGORIES_FILE, "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]) + "\n")


def write_label_map(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    """Write a label map ``[H, W]`` of categories counted from 0 and `IGNORED`, the inverse of `read_label_map`."""
    with atomic_path(path) as temporary:
        Image.fromarray(labels + np.uint8(1)).save(temporary, format="PNG")
