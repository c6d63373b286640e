"""Probes of how much the image contributes: the same questions with images blanked, or shuffled within a benchmark.

A model that answers as well without the right image answers from the question or from priors. Blanked images keep their
size and are filled with the padding colour. Shuffled images are permuted along one cycle through all images of the
benchmark, so that every question gets a real image, and none its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from eyeswap.errors import DataError
from eyeswap.evaluation.runner import Images
from eyeswap.images import open_image
from eyeswap.tokens.cache import ImageEncoder

ImagesShown = Literal["as-is", "blanked", "shuffled"]

SHUFFLE_SEED = 0


class BlankedImages(ImageEncoder):
    """An `ImageEncoder` that encodes a blank image of the same size in place of each image."""

    def _place(self, image: str) -> Tensor | str:
        """Return the pixels ``[3, H, W]`` of a blank image, or the reason why there are none."""
        try:
            size = open_image(self.root / image).size
            return self.geometry.place(Image.new("RGB", size, self.geometry.fill_colour))[0]
        except DataError as error:
            return str(error)


class ShuffledImages:
    """A source of visual tokens that replaces each image by another.

    Args:
        images: the source of the tokens.
        shown: for each image the one shown in its place.
    """

    def __init__(self, images: Images, shown: Mapping[str, str]) -> None:
        self.images, self.shown = images, shown

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of the image shown for each, and reasons for those that cannot be read."""
        tokens, unreadable = self.images.read([self.shown[image] for image in images])
        return tokens, {image: unreadable[self.shown[image]] for image in images if self.shown[image] in unreadable}


def shuffle(images: Sequence[str], seed: int = SHUFFLE_SEED) -> dict[str, str]:
    """Return for each image another one to show in its place, along a random cycle through all images.

    Args:
        images: images of one benchmark; repetitions count once and their order does not matter.
        seed: seed of the cycle.

    Raises:
        DataError: if there are fewer than two images.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise DataError("shuffling needs at least two images")
    cycle = [distinct[index] for index in np.random.default_rng(seed).permutation(len(distinct))]
    return dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
