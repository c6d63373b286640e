"""Digests of image files, so that runs can show that they saw the same pictures.

An instruction file names its images and says nothing of their bytes. *Sampled*, an image is known by its size and by
its first and last bytes, where formats keep their header and where a cut shows: two short reads a file, cheap for the
665K images of a training mix. *Full*, it is known by all of its bytes.
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
        hashing: what of a file is read.
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
    """Return what an image file is known by; None if it is not there or cannot be read."""
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
