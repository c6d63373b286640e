"""The visual-token cache: a frozen backbone sees each image once.

Because the backbone never changes, its tokens are a pure function of (weights, geometry, image). They are computed
once, stored as one float16 array, memory-mapped, and shared by training, evaluation and every connector. The file
name is a digest of everything that decides its content. Images that cannot be read have zeros there, and a note of the
reason in a file beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import DataError
from eyeswap.files import atomic_path, digest, open_image, read_json, write_json
from eyeswap.geometry import ImageGeometry

_BATCH = 32
_READERS = 8  # threads that decode images; more than a backbone can keep up with


class ImageEncoder:
    """A frozen backbone that reads images from disk, on the device where it lies.

    Args:
        backbone: the frozen network.
        geometry: how an image becomes its input.
        root: folder that image paths are relative to.
    """

    def __init__(self, backbone: VisionBackbone, geometry: ImageGeometry, root: Path) -> None:
        self.backbone, self.geometry, self.root = backbone, geometry, root
        self._readers = ThreadPoolExecutor(_READERS)

    @torch.inference_mode()
    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens of the images that can be read, and why the others cannot.

        Args:
            images: paths, each once.

        Returns:
            Of each readable image ``[N, D]`` float32, rounded to float16 as the cache stores them; path to reason.
        """
        found = list(self._readers.map(self._place, images))
        unreadable = {image: one for image, one in zip(images, found, strict=True) if isinstance(one, str)}
        pixels = [one for one in found if isinstance(one, Tensor)]
        device = next(self.backbone.parameters(), torch.empty(0)).device  # a network may have none
        tokens: dict[int, Tensor] = {}
        for shape in {one.shape for one in pixels}:  # one, unless canvases vary with the image
            rows = [row for row, one in enumerate(pixels) if one.shape == shape]
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                batch = torch.stack([pixels[row] for row in part]).to(device)  # [B, 3, H, W]
                tokens |= zip(part, self.backbone(batch).half().float(), strict=True)
        return [tokens[row] for row in range(len(pixels))], unreadable

    def can_read(self, image: str) -> bool:
        """Return whether an image can be read."""
        return isinstance(self._place(image), Tensor)

    def _place(self, image: str) -> Tensor | str:
        """Return the pixels ``[3, H, W]`` of an image, or why there are none."""
        try:
            return self.geometry.place(open_image(self.root / image))[0]
        except DataError as error:
            return str(error)


class TokenCache:
    """Visual tokens of a fixed list of images.

    Attributes:
        rows: row number of each image path.
        tokens: ``[images, N, D]`` float16, memory-mapped.
        unreadable: path of each image that could not be read, and why.
    """

    def __init__(
        self, images: Sequence[str], tokens: npt.NDArray[np.float16], unreadable: Mapping[str, str] | None = None
    ) -> None:
        self.rows = {image: row for row, image in enumerate(images)}
        self.tokens = tokens
        self.unreadable = dict(unreadable or {})

    def __getitem__(self, images: Sequence[str]) -> Tensor:
        """Return the tokens of some images, ``[B, N, D]`` float32.

        Raises:
            DataError: if an image is not in the cache, or could not be read.
        """
        try:
            rows = [self.rows[image] for image in images]
        except KeyError as error:
            raise DataError(f"{error.args[0]}: this image is not in the token cache") from None
        self.require(images)
        return torch.from_numpy(np.asarray(self.tokens[rows])).float()

    def require(self, images: Sequence[str]) -> None:
        """Check that all of some images could be read.

        Raises:
            DataError: naming the first that could not, and how many.
        """
        missing = [image for image in images if image in self.unreadable]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(f"{self.unreadable[missing[0]]}{more}")

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of each image that could be read, and why the others could not."""
        readable = [image for image in images if image not in self.unreadable]
        unreadable = {image: self.unreadable[image] for image in images if image in self.unreadable}
        return list(self[readable]), unreadable


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

    A cache with unreadable images is made anew if one of them can be read by now.

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
        DataError: if no image can be read.
    """
    key = digest([weights_digest, geometry.canonical(), list(images), data_digest])
    path = folder / f"{key[:24]}.npy"
    notes = path.with_suffix(".unreadable.json")
    encoder = ImageEncoder(backbone, geometry, root)
    unreadable: dict[str, str] = read_json(notes) if notes.is_file() else {}
    if path.is_file() and not any(encoder.can_read(image) for image in unreadable):
        advance(len(images))
    else:
        path.unlink(missing_ok=True)  # the notes below are of the new one
        with atomic_path(path) as temporary:
            unreadable = _encode(encoder, images, temporary, advance)
            if unreadable or notes.is_file():
                write_json(notes, unreadable)
    return TokenCache(images, np.load(path, mmap_mode="r", allow_pickle=False), unreadable)


def _encode(encoder: ImageEncoder, images: Sequence[str], path: Path, advance: Callable[[int], None]) -> dict[str, str]:
    """Write the tokens of all images, ``[images, N, D]``, zeros for the unreadable; return why those are."""
    tokens: np.memmap[Any, np.dtype[np.float16]] | None = None
    unreadable: dict[str, str] = {}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        found, problems = encoder.read(batch)
        unreadable |= problems
        readable = (row for row, image in enumerate(batch, start) if image not in problems)
        for row, one in zip(readable, found, strict=True):
            if tokens is None:
                shape = (len(images), *one.shape)
                tokens = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            if one.shape != tokens.shape[1:]:
                raise DataError(
                    f"{images[row]}: {len(one)} visual tokens, others have {tokens.shape[1]}; tokens of a varying "
                    f"canvas ({encoder.geometry.strategy}) cannot be cached: choose another geometry"
                )
            tokens[row] = one.cpu().numpy()
        advance(len(batch))
    if tokens is None:
        raise DataError(next(iter(unreadable.values()), f"{encoder.root}: no image to encode"))
    tokens.flush()
    return unreadable
