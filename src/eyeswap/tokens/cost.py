"""Estimate the cost and saving of a token cache from a short measurement, and verify a cache."""

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
    """The estimated cost of a token cache.

    Attributes:
        images: number of images.
        stored: number of images whose tokens are already stored.
        tokens: visual tokens per image.
        width: width of a token.
        image_s: seconds per image on this machine, including reading it.
        sampled: number of images in the measurement.
        free_bytes: free disk space.
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
        """Bytes per image, in float16."""
        return self.tokens * self.width * 2

    @property
    def needed_bytes(self) -> int:
        """Bytes for the missing tokens."""
        return (self.images - self.stored) * self.image_bytes

    @property
    def cost_s(self) -> float:
        """Seconds to compute the missing tokens."""
        return (self.images - self.stored) * self.image_s

    @property
    def saved_s(self) -> float:
        """Seconds that every later pass over the images saves."""
        return self.images * self.image_s


def estimate_cost(folder: Path, loaded: LoadedBackbone, root: Path, images: Sequence[str]) -> TokenCost:
    """Measure evenly spaced images for a few seconds; nothing is written.

    An image counts as stored if its digest is cached from an earlier call; image files are not read to find out.

    Args:
        folder: folder of all stores.
        loaded: the frozen backbone and its geometry.
        root: folder that image paths are relative to.
        images: paths of the images, without duplicates.

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
    """Recompute the tokens of some images and compare them with the cache bit for bit; return the number compared.

    Raises:
        DataError: naming the first image that differs.
    """
    readable = [image for image in images if image not in cache.unreadable]
    tokens, unreadable = ImageEncoder(loaded.network.eval(), loaded.geometry, root).read(readable)
    still_readable = (image for image in readable if image not in unreadable)
    for image, recomputed in zip(still_readable, tokens, strict=True):
        if not torch.equal(recomputed.cpu(), cache[[image]][0]):
            raise DataError(
                f"{image}: recomputed visual tokens differ from the stored ones, which may come from another machine "
                "or another version of torch; delete the store and run again"
            )
    return len(tokens)


def spaced(images: Sequence[str], most: int) -> list[str]:
    """Return up to ``most`` images, evenly spaced."""
    step = max(1, len(images) / most)
    return [images[int(number * step)] for number in range(min(most, len(images)))]
