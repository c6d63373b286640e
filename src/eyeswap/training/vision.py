"""Sources of visual tokens in training: the cache, or the frozen backbone in every step.

`read` runs where batches are made, possibly in worker processes; `encode` runs in the training process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from eyeswap.backbones.base import keep_precision
from eyeswap.errors import SpecError
from eyeswap.geometry import ImageGeometry
from eyeswap.images import open_image
from eyeswap.tokens.cache import TokenCache
from eyeswap.vlm.model import VisionLanguageModel


def check_canvas(name: str, geometry: ImageGeometry) -> None:
    """Check that a geometry gives every image the same number of tokens; ``name`` is the backbone, for the message.

    Raises:
        SpecError: if the canvas varies with the image.
    """
    if geometry.strategy == "keep-ratio":
        raise SpecError(f"backbone {name}: training needs a fixed canvas; choose a letterbox geometry")


class VisualSource(Protocol):
    """A source of visual tokens for training.

    Attributes:
        decodes: whether reading decodes images, which is worth worker processes.
    """

    decodes: ClassVar[bool]

    @property
    def num_tokens(self) -> int: ...

    def read(self, images: Sequence[str]) -> Tensor:
        """Return the data of images that `encode` takes, ``[I, ...]``; the backbone is not used."""
        ...

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the visual tokens ``[I, N, vision_width]`` of the data that `read` returned."""
        ...


@dataclass(frozen=True)
class CachedTokens:
    """Precomputed visual tokens.

    Attributes:
        cache: visual tokens of all training images.
        seen: visual tokens per image that the LLM sees; None if the connector keeps their number.
    """

    decodes: ClassVar[bool] = False

    cache: TokenCache
    seen: int | None = None

    @property
    def num_tokens(self) -> int:
        """Visual tokens per image that the LLM sees."""
        return self.seen or int(self.cache.tokens.shape[1])

    def read(self, images: Sequence[str]) -> Tensor:
        """Return the tokens ``[I, N, vision_width]`` of images.

        Raises:
            DataError: if an image could not be read.
        """
        return self.cache[images]

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the tokens ``[I, N, vision_width]`` unchanged."""
        return read


@dataclass(frozen=True)
class LiveTokens:
    """Visual tokens computed in every step; random in the wiring ``as-published``, whose backbone is in train mode.

    Attributes:
        geometry: maps images to pixels on the canvas.
        root: folder that image paths are relative to.
        num_tokens: visual tokens per image.
    """

    decodes: ClassVar[bool] = True

    geometry: ImageGeometry
    root: Path
    num_tokens: int

    @classmethod
    def of(cls, vlm: VisionLanguageModel, root: Path) -> LiveTokens:
        """Return the source of a VLM's own backbone.

        Raises:
            SpecError: if the canvas varies with the image.
        """
        loaded = vlm.backbone
        check_canvas(loaded.name, loaded.geometry)
        return cls(loaded.geometry, root, vlm.connector.tokens_of(loaded.token_grid))

    def read(self, images: Sequence[str]) -> Tensor:
        """Return the pixels ``[I, 3, H, W]`` of images.

        Raises:
            DataError: if one cannot be read.
        """
        return torch.stack([self.geometry.place(open_image(self.root / image))[0] for image in images])

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the visual tokens ``[I, N, vision_width]`` of pixels ``[I, 3, H, W]``."""
        return vlm.encode(read)


class TunedTokens(LiveTokens):
    """Visual tokens of a backbone whose last blocks learn, with gradients, in float32 as a frozen one computes them."""

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the visual tokens ``[I, N, vision_width]`` of pixels ``[I, 3, H, W]``, not rounded."""
        network = vlm.backbone.network
        with keep_precision(read.device.type):
            tokens: Tensor = network(read.float())
        return tokens
