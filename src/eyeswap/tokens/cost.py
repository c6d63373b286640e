"""What caching visual tokens would cost and save, from a short measured sample; and whether a cache is right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import DataError
from eyeswap.files import free_bytes
from eyeswap.tokens.cache import ImageEncoder, TokenCache, open_store
from eyeswap.tokens.store import ImageDigests

_SAMPLE_S = 3.0
_MOST_SAMPLED = 256
_BATCH = 32


@dataclass(frozen=True)
class TokenCost:
    """An estimate.

    Attributes:
        images: images in all.
        stored: of these, images whose tokens are there already.
        tokens: visual tokens of an image.
        width: width of a token.
        image_s: seconds an image takes on this machine, reading included.
        sampled: images that this was measured on.
        free_bytes: room on the disk.
    """

    images: int
    stored: int
    tokens: int
    width: int
    image_s: float
    sampled: int
    free_bytes: int

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's tokens: float16."""
        return self.tokens * self.width * 2

    @property
    def needed_bytes(self) -> int:
        """Bytes that the missing tokens need."""
        return (self.images - self.stored) * self.image_bytes

    @property
    def cost_s(self) -> float:
        """Seconds until all are stored."""
        return (self.images - self.stored) * self.image_s

    @property
    def saved_s(self) -> float:
        """Seconds that every later pass over the images saves."""
        return self.images * self.image_s


def estimate_cost(folder: Path, loaded: LoadedBackbone, root: Path, images: Sequence[str]) -> TokenCost:
    """Measure a few images, evenly spaced, for some seconds; nothing is written.

    An image counts as stored if its digest is known from an earlier call; files are not read to find out.

    Args:
        folder: where stores live.
        loaded: the frozen backbone and its geometry.
        root: folder that image paths are relative to.
        images: paths of the images, each once.

    Raises:
        DataError: if none of the sampled images can be read.
    """
    store, digests = open_store(folder, loaded), ImageDigests(folder / "digests.jsonl")
    stored = [digests.known(root / image) in store.rows for image in images] if len(store) else []
    encoder = ImageEncoder(loaded.network.eval(), loaded.geometry, root)
    sample = spaced(images, _MOST_SAMPLED)
    encoder.read(sample[:1])  # the first call compiles and warms up
    shape, done, started = None, 0, time.perf_counter()
    while done < len(sample) and (done == 0 or time.perf_counter() - started < _SAMPLE_S):
        tokens, unreadable = encoder.read(sample[done : done + _BATCH])
        shape = tokens[0].shape if tokens else shape
        done += len(sample[done : done + _BATCH])
    if shape is None:
        raise DataError(next(iter(unreadable.values())) if sample else f"{root}: no image to encode")
    elapsed = time.perf_counter() - started
    return TokenCost(len(images), sum(stored), shape[0], shape[1], elapsed / done, done, free_bytes(folder))


def verify(cache: TokenCache, loaded: LoadedBackbone, root: Path, images: Sequence[str]) -> int:
    """Compute the tokens of some images again and compare them with the cache, bit for bit; return their number.

    Raises:
        DataError: naming the first image that differs.
    """
    readable = [image for image in images if image not in cache.unreadable]
    tokens, unreadable = ImageEncoder(loaded.network.eval(), loaded.geometry, root).read(readable)
    for image, one in zip((image for image in readable if image not in unreadable), tokens, strict=True):
        if not torch.equal(one.cpu(), cache[[image]][0]):
            raise DataError(
                f"{image}: computed again, its visual tokens differ from the stored ones; were they made on another "
                "machine, or with another version of torch? Delete the store to make it anew"
            )
    return len(tokens)


def spaced(images: Sequence[str], most: int) -> list[str]:
    """Return up to ``most`` images, evenly spaced."""
    step = max(1, len(images) / most)
    return [images[int(number * step)] for number in range(min(most, len(images)))]
