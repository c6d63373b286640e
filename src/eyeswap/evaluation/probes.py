"""What the image is worth: the same questions with images blanked, or shuffled within each benchmark.

A model that answers as well without the right image has answered from the question, or from habit. Blanked images keep
their size and get the padding colour everywhere; shuffled ones trade places along one cycle through all images of the
benchmark, so that none stays and every one is still a real image.
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
    """Gives the tokens of a blank image of the same size in place of each image.

    Arguments as `ImageEncoder`.
    """

    def _place(self, image: str) -> Tensor | str:
        """Return the pixels ``[3, H, W]`` of a blank image, or why there are none."""
        try:
            size = open_image(self.root / image).size
            return self.geometry.place(Image.new("RGB", size, self.geometry.fill_colour))[0]
        except DataError as error:
            return str(error)


class ShuffledImages:
    """Gives the tokens of another image in place of each.

    Args:
        images: where the tokens come from.
        shown: which image is shown in place of which.
    """

    def __init__(self, images: Images, shown: Mapping[str, str]) -> None:
        self.images, self.shown = images, shown

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of what is shown in place of each image, and why there are none for others."""
        tokens, unreadable = self.images.read([self.shown[image] for image in images])
        return tokens, {image: unreadable[self.shown[image]] for image in images if self.shown[image] in unreadable}


def shuffle(images: Sequence[str], seed: int = SHUFFLE_SEED) -> dict[str, str]:
    """Return which image to show in place of which: a random cycle through all, so that none stays in its place.

    Args:
        images: images of one benchmark; repeats count once.
        seed: seed of the cycle; the order of the images does not matter.

    Raises:
        DataError: if there are fewer than two images.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise DataError("shuffling images needs at least two of them")
    cycle = [distinct[place] for place in np.random.default_rng(seed).permutation(len(distinct))]
    return dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
