"""Digests of image files, which show whether two runs saw the same images.

An instruction file names its images but says nothing about their bytes. A *sampled* digest covers the file's size and
its first and last bytes, where formats keep their header and where truncation shows: two short reads per file, cheap
even for the 665K images of a training mix. A *full* digest covers all bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from eyeswap.files import digest

Hashing = Literal["sampled", "full"]

_SAMPLE = 4096  # bytes at either end
_READERS = 8
_BLOCK = 1 << 20


def digests_of_sets(root: Path, image_sets: Mapping[str, Sequence[str]], hashing: Hashing) -> dict[str, str]:
    """Return one digest of the images of each data set, such as ``sampled:1f3c...``.

    Args:
        root: folder that image paths are relative to.
        image_sets: paths of the images of each data set; each distinct one is read once.
        hashing: how much of each file is read.
    """
    distinct = list(dict.fromkeys(image for images in image_sets.values() for image in images))
    with ThreadPoolExecutor(_READERS) as readers:
        sums = dict(zip(distinct, readers.map(lambda image: _sum(root / image, hashing), distinct), strict=True))
    return {
        name: f"{hashing}:{digest([[image, sums[image]] for image in sorted(set(images))])}"
        for name, images in image_sets.items()
        if images
    }


def _sum(path: Path, hashing: Hashing) -> str | None:
    """Return the digest of an image file; None if it is missing or cannot be read."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            total.update(f"{size}\0".encode())
            if hashing == "full":
                while block := file.read(_BLOCK):
                    total.update(block)
            else:
                total.update(file.read(_SAMPLE))
                file.seek(max(0, size - _SAMPLE))
                total.update(file.read(_SAMPLE))
    except OSError:
        return None
    return total.hexdigest()
