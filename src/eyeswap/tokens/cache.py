"""The visual-token cache: a frozen backbone sees each image once.

Because the backbone never changes, its tokens are a pure function of (weights, tap, geometry, image). They are computed
once, kept in a `TokenStore`, memory-mapped, and shared by training, evaluation and every connector, LLM and seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone, encode
from eyeswap.backbones.name import BackboneName
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import DataError
from eyeswap.files import digest
from eyeswap.geometry import ImageGeometry
from eyeswap.images import open_image
from eyeswap.tokens.store import ImageDigests, TokenStore
from eyeswap.versions import code_version, version_of

_CODE = ("backbones", "ops", "geometry.py", "images.py", "tokens/cache.py")  # from a file to its tokens
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

    @property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        return next(self.backbone.parameters(), torch.empty(0)).device  # a network may have none

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
        tokens: dict[int, Tensor] = {}
        for shape in {one.shape for one in pixels}:  # one, unless canvases vary with the image
            rows = [row for row, one in enumerate(pixels) if one.shape == shape]
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                batch = torch.stack([pixels[row] for row in part]).to(self.device)  # [B, 3, H, W]
                tokens |= zip(part, encode(self.backbone, batch), strict=True)
        return [tokens[row] for row in range(len(pixels))], unreadable

    def digests(self, images: Sequence[str], known: ImageDigests) -> list[str | None]:
        """Return the sha256 of each image's file; None for files that are not there."""
        return list(self._readers.map(lambda image: known.of(self.root / image), images))

    def _place(self, image: str) -> Tensor | str:
        """Return the pixels ``[3, H, W]`` of an image, or why there are none."""
        try:
            return self.geometry.place(open_image(self.root / image))[0]
        except DataError as error:
            return str(error)


class StoredImages:
    """Images whose tokens are read from a store where it has them, and encoded where it has not; nothing is written.

    Args:
        encoder: the backbone, for what the store lacks.
        folder: where stores live.
        loaded: the same backbone and geometry, to find its store by.
    """

    def __init__(self, encoder: ImageEncoder, folder: Path, loaded: LoadedBackbone) -> None:
        self.encoder, self.store = encoder, open_store(folder, loaded)
        self.known = ImageDigests(folder / "digests.jsonl")

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of each image that can be read, in order, and why the others cannot."""
        sums = self.encoder.digests(images, self.known) if len(self.store) else []
        rows = {image: self.store.rows[one] for image, one in zip(images, sums, strict=False) if one in self.store.rows}
        lacking = [image for image in images if image not in rows]
        encoded, unreadable = self.encoder.read(lacking)
        fresh = iter(encoded)
        stored = self.store.tokens() if rows else None
        tokens = []
        for image in images:
            if stored is not None and image in rows:
                tokens.append(torch.from_numpy(np.array(stored[rows[image]])).float().to(self.encoder.device))
            elif image not in unreadable:
                tokens.append(next(fresh))
        return tokens, unreadable


class TokenCache:
    """Visual tokens of a list of images.

    Args:
        images: path of each image.
        tokens: ``[rows, N, D]`` float16, memory-mapped.
        unreadable: path of each image that could not be read, and why.
        rows: row of each image in ``tokens``; by default one after another.
    """

    def __init__(
        self,
        images: Sequence[str],
        tokens: npt.NDArray[np.float16],
        unreadable: Mapping[str, str] | None = None,
        rows: Mapping[str, int] | None = None,
    ) -> None:
        self.rows = {image: row for row, image in enumerate(images)} if rows is None else dict(rows)
        self.tokens = tokens
        self.unreadable = dict(unreadable or {})

    def __getitem__(self, images: Sequence[str]) -> Tensor:
        """Return the tokens of some images, ``[B, N, D]`` float32.

        Raises:
            DataError: if an image is not in the cache, or could not be read.
        """
        self.require(images)
        try:
            rows = [self.rows[image] for image in images]
        except KeyError as error:
            raise DataError(f"{error.args[0]}: this image is not in the token cache") from None
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
    loaded: LoadedBackbone,
    root: Path,
    images: Sequence[str],
    advance: Callable[[int], None] = lambda count: None,
) -> TokenCache:
    """Return the tokens of ``images``, computing those that no store in ``folder`` holds yet.

    Args:
        folder: where stores live.
        loaded: the frozen backbone and its geometry; its network is put in eval mode.
        root: folder that image paths are relative to.
        images: paths of the images, each once.
        advance: called with the number of images done since the last call.

    Raises:
        DataError: if no image can be read, or the canvas varies with the image.
        EnvironmentProblem: if the disk is full.
    """
    store, digests = open_store(folder, loaded), ImageDigests(folder / "digests.jsonl")
    encoder = ImageEncoder(loaded.network.eval(), loaded.geometry, root)
    rows: dict[str, int] = {}
    unreadable: dict[str, str] = {}
    with store.writing():
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            found = dict(zip(batch, encoder.digests(batch, digests), strict=True))
            unreadable |= _add(store, encoder, found)
            rows |= {image: store.rows[sha256] for image, sha256 in found.items() if sha256 in store.rows}
            digests.save()
            advance(len(batch))
    if not rows:
        raise DataError(next(iter(unreadable.values()), f"{root}: no image to encode"))
    return TokenCache(images, store.tokens(), unreadable, rows)


def token_folder(own: Path) -> Path:
    """Return where a study keeps visual tokens: ``EYESWAP_TOKENS``, which studies can share, or its own folder."""
    return shared_token_folder() or own


def shared_token_folder() -> Path | None:
    """Return the folder of ``EYESWAP_TOKENS``, if it is set."""
    shared = os.environ.get("EYESWAP_TOKENS")
    return Path(shared) if shared else None


def open_store(folder: Path, loaded: LoadedBackbone) -> TokenStore:
    """Return the store of a backbone and its geometry, as this code makes tokens on the device where it lies.

    Equal ones share it, whatever they are called. Whatever makes tokens is part of the key, so that new code, another
    release of a package, another device or precision never get old tokens.
    """
    about = {**backbone_identity(loaded), "made_by": _made_by(loaded)}
    return TokenStore(folder / digest(about)[:24], {"name": loaded.name, **about})


def _made_by(loaded: LoadedBackbone) -> dict[str, str | None]:
    """Return the code, packages, device and precision that make tokens."""
    parameter = next(loaded.network.parameters(), torch.empty(0))  # a network may have none
    versions = {package: version_of(package) for package in ("torch", "pillow", "timm")}
    return {
        "code": code_version(*_CODE),
        **versions,
        "device": parameter.device.type,
        "precision": str(parameter.dtype).removeprefix("torch."),
    }


def backbone_identity(loaded: LoadedBackbone) -> dict[str, Any]:
    """Return everything that decides what a frozen backbone makes of an image: its code is ours, or has a digest."""
    entry, key = loaded.entry, loaded.weights_key
    return {
        "weights_sha256": loaded.weights_sha256,
        **({} if key is None else {"weights_key": key}),
        "network": None if entry is None else [entry.family, entry.model_dump(mode="json")["architecture"]],
        "tap": loaded.tap if entry is None else entry.model_dump(mode="json")["tap"],
        "own_file_sha256": BackboneName.parse(loaded.name).file_sha256,
        "geometry": loaded.geometry.canonical(),
    }


def _add(store: TokenStore, encoder: ImageEncoder, found: Mapping[str, str | None]) -> dict[str, str]:
    """Encode the images that a store lacks, given with their digests; return why some could not be read."""
    lacking: dict[str, str] = {}  # equal files once
    for image, sha256 in found.items():
        if sha256 is not None and sha256 not in store.rows:
            lacking.setdefault(sha256, image)
    tokens, unreadable = encoder.read(list(lacking.values()))
    readable = [sha256 for sha256, image in lacking.items() if image not in unreadable]
    for sha256, one in zip(readable, tokens, strict=True):
        shape = store.shape or tokens[0].shape
        if one.shape != shape:
            raise DataError(
                f"{lacking[sha256]}: {len(one)} visual tokens, others have {shape[0]}; tokens of a varying canvas "
                f"({encoder.geometry.strategy}) cannot be cached: choose another geometry"
            )
        if not bool(one.isfinite().all()):
            raise DataError(f"{lacking[sha256]}: visual tokens are not finite, or beyond float16's range of 65,504")
    if readable:
        store.append(readable, [one.half().cpu().numpy() for one in tokens])
    _, reasons = encoder.read([image for image, sha256 in found.items() if sha256 is None])
    for image, sha256 in found.items():
        first = lacking.get(sha256 or "")
        if first in unreadable:
            reasons[image] = unreadable[first]
    return reasons
