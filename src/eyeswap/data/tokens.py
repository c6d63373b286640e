"""The visual-token cache: a frozen backbone sees each image once.

Because the backbone never changes, its tokens are a pure function of (weights, geometry, image). They are computed
once, stored as one float16 array, memory-mapped, and shared by training, evaluation and every connector. The file
name is a digest of everything that decides its content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import DataError
from eyeswap.files import atomic_path, digest, open_image
from eyeswap.geometry import ImageGeometry

_BATCH = 32


class TokenCache:
    """Visual tokens of a fixed list of images.

    Attributes:
        rows: row number of each image path.
        tokens: ``[images, N, D]`` float16, memory-mapped.
    """

    def __init__(self, images: Sequence[str], tokens: npt.NDArray[np.float16]) -> None:
        self.rows = {image: row for row, image in enumerate(images)}
        self.tokens = tokens

    def __getitem__(self, images: Sequence[str]) -> Tensor:
        """Return the tokens of some images, ``[B, N, D]`` float32.

        Raises:
            DataError: if an image is not in the cache.
        """
        try:
            rows = [self.rows[image] for image in images]
        except KeyError as error:
            raise DataError(f"{error.args[0]}: this image is not in the token cache") from None
        return torch.from_numpy(np.asarray(self.tokens[rows])).float()


def cache_tokens(
    folder: Path,
    backbone: VisionBackbone,
    geometry: ImageGeometry,
    weights_digest: str,
    root: Path,
    images: Sequence[str],
    data_digest: str,
    advance: Callable[[int], None] = lambda count: None,
) -> TokenCache:
    """Return the tokens of ``images``, computing them only if no finished cache lies in ``folder``.

    Args:
        folder: where caches live.
        backbone: the frozen network.
        geometry: how an image becomes its input.
        weights_digest: digest of the backbone's weights.
        root: folder that image paths are relative to.
        images: paths of the images, each once.
        data_digest: digest of the images' bytes.
        advance: called with the number of images done since the last call.

    Raises:
        DataError: if an image cannot be read.
    """
    key = digest([weights_digest, geometry.canonical(), list(images), data_digest])
    path = folder / f"{key[:24]}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, _encode(backbone, geometry, root, images, advance))
    else:
        advance(len(images))
    return TokenCache(images, np.load(path, mmap_mode="r", allow_pickle=False))


@torch.inference_mode()
def _encode(
    backbone: VisionBackbone,
    geometry: ImageGeometry,
    root: Path,
    images: Sequence[str],
    advance: Callable[[int], None],
) -> npt.NDArray[np.float16]:
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        pixels = torch.stack([geometry.place(open_image(root / image))[0] for image in batch])  # [B, 3, H, W]
        parts.append(backbone(pixels).to(torch.float16).numpy())  # [B, N, D]
        advance(len(batch))
    return np.concatenate(parts)
