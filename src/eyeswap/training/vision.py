"""Where the visual tokens of a pass come from: the cache, or the frozen backbone at every step.

`read` runs where batches are made, in other processes if there are any; `encode` runs where training does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from eyeswap.errors import SpecError
from eyeswap.geometry import ImageGeometry
from eyeswap.images import open_image
from eyeswap.tokens.cache import TokenCache
from eyeswap.vlm.model import VisionLanguageModel


def check_canvas(name: str, geometry: ImageGeometry) -> None:
    """Check that a backbone, of this name for the message, gives every image the same number of tokens.

    Raises:
        SpecError: if its canvas varies with the image.
    """
    if geometry.strategy == "keep-ratio":
        raise SpecError(f"backbone {name}: training needs a canvas that does not vary; choose a letterbox")


class VisualSource(Protocol):
    """What training asks of a source of visual tokens.

    Attributes:
        decodes: whether to read an image is work, worth processes of its own.
    """

    decodes: ClassVar[bool]

    @property
    def num_tokens(self) -> int: ...

    def read(self, images: Sequence[str]) -> Tensor:
        """Return what is known of some images without the backbone, ``[I, ...]``."""
        ...

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the visual tokens ``[I, N, vision_width]`` of what was read."""
        ...


@dataclass(frozen=True)
class CachedTokens:
    """Ready-made visual tokens.

    Attributes:
        cache: of all training images.
    """

    decodes: ClassVar[bool] = False

    cache: TokenCache

    @property
    def num_tokens(self) -> int:
        """Visual tokens of an image."""
        return int(self.cache.tokens.shape[1])

    def read(self, images: Sequence[str]) -> Tensor:
        """Return the tokens ``[I, N, vision_width]`` of images.

        Raises:
            DataError: if an image could not be read.
        """
        return self.cache[images]

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the tokens ``[I, N, vision_width]`` as they are."""
        return read


@dataclass(frozen=True)
class LiveTokens:
    """Visual tokens made anew at every step. In the wiring ``as-published`` no two draws are alike.

    Attributes:
        geometry: how an image becomes pixels.
        root: folder that image paths are relative to.
        num_tokens: visual tokens of the canvas.
    """

    decodes: ClassVar[bool] = True

    geometry: ImageGeometry
    root: Path
    num_tokens: int

    @classmethod
    def of(cls, vlm: VisionLanguageModel, root: Path) -> LiveTokens:
        """Make a source of a VLM with a backbone.

        Raises:
            SpecError: if the canvas varies with the image.
        """
        loaded = vlm.backbone
        check_canvas(loaded.name, loaded.geometry)
        rows, columns = loaded.token_grid
        return cls(loaded.geometry, root, rows * columns)

    def read(self, images: Sequence[str]) -> Tensor:
        """Return the pixels ``[I, 3, H, W]`` of images.

        Raises:
            DataError: if one cannot be read.
        """
        return torch.stack([self.geometry.place(open_image(self.root / image))[0] for image in images])

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        """Return the visual tokens ``[I, N, vision_width]`` of pixels ``[I, 3, H, W]``."""
        return vlm.encode(read)
