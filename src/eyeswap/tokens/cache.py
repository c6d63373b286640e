"""The visual-token cache: each image is encoded once by a frozen backbone.

Because the backbone is frozen, its tokens are a pure function of weights, tap, geometry and image. They are computed
once, kept in a memory-mapped `TokenStore`, and shared by training, evaluation and every connector, LLM and seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
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
from eyeswap.processes import Ranks
from eyeswap.tokens.store import ImageDigests, TokenStore
from eyeswap.versions import code_version, version_of

_CODE = ("backbones", "ops", "geometry.py", "images.py", "tokens/cache.py")  # code that turns an image file into tokens
_BATCH = 32
_READERS = 8  # threads that decode images, faster than a backbone encodes them


class ImageEncoder:
    """Reads images from disk and encodes them with a frozen backbone, on the backbone's device.

    Args:
        backbone: the frozen network.
        geometry: maps images to pixels on the canvas.
        root: folder that image paths are relative to.
    """

    def __init__(self, backbone: VisionBackbone, geometry: ImageGeometry, root: Path) -> None:
        self.backbone, self.geometry, self.root = backbone, geometry, root
        self._readers = ThreadPoolExecutor(_READERS)

    @property
    def device(self) -> torch.device:
        """The device of the backbone."""
        return next(self.backbone.parameters(), torch.empty(0)).device  # a network may have none

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens of all readable images, and the reason for each unreadable one.

        Args:
            images: paths, without duplicates.

        Returns:
            ``[N, D]`` float32 tokens of each readable image, rounded to float16 as the cache stores them; and the
            reason why each other path cannot be read.
        """
        results = list(self._readers.map(self._place, images))
        unreadable = {image: result for image, result in zip(images, results, strict=True) if isinstance(result, str)}
        pixels = [result for result in results if isinstance(result, Tensor)]
        tokens: dict[int, Tensor] = {}
        for shape in {canvas.shape for canvas in pixels}:  # a single one unless canvases vary with the image
            rows = [row for row, canvas in enumerate(pixels) if canvas.shape == shape]
            for start in range(0, len(rows), _BATCH):
                batch_rows = rows[start : start + _BATCH]
                batch = torch.stack([pixels[row] for row in batch_rows]).to(self.device)  # [B, 3, H, W]
                tokens |= zip(batch_rows, encode(self.backbone, batch), strict=True)
        return [tokens[row] for row in range(len(pixels))], unreadable

    def digests(self, images: Sequence[str], known: ImageDigests) -> list[str | None]:
        """Return the sha256 of each image file; None for a file that cannot be read."""
        return list(self._readers.map(lambda image: known.of(self.root / image), images))

    def _place(self, image: str) -> Tensor | str:
        """Return the pixels ``[3, H, W]`` of an image, or the reason why it cannot be read."""
        try:
            return self.geometry.place(open_image(self.root / image))[0]
        except DataError as error:
            return str(error)


class StoredImages:
    """Reads tokens from a store, and encodes the images that it lacks; nothing is written.

    Args:
        encoder: encodes images that are not in the store.
        folder: folder of all stores.
        loaded: the same backbone and geometry, which identify the store.
    """

    def __init__(self, encoder: ImageEncoder, folder: Path, loaded: LoadedBackbone) -> None:
        self.encoder, self.store = encoder, open_store(folder, loaded)
        self.known = ImageDigests(folder / "digests.jsonl")

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of all readable images in order, and the reason for each unreadable one."""
        digests = self.encoder.digests(images, self.known) if len(self.store) else [None] * len(images)
        rows = {
            image: self.store.rows[sha256]
            for image, sha256 in zip(images, digests, strict=True)
            if sha256 in self.store.rows
        }
        encoded, unreadable = self.encoder.read([image for image in images if image not in rows])
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
    """The visual tokens of a list of images.

    Args:
        images: path of each image.
        tokens: ``[rows, N, D]`` float16, memory-mapped.
        unreadable: path of each unreadable image, and the reason.
        rows: row of each image in ``tokens``; by default in order.
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
        """Check that none of these images is unreadable.

        Raises:
            DataError: naming the first unreadable one, and how many there are.
        """
        missing = [image for image in images if image in self.unreadable]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(f"{self.unreadable[missing[0]]}{more}")

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of each image that is readable, and the reason for each unreadable one."""
        readable = [image for image in images if image not in self.unreadable]
        unreadable = {image: self.unreadable[image] for image in images if image in self.unreadable}
        return list(self[readable]), unreadable


def cache_tokens(
    folder: Path,
    loaded: LoadedBackbone,
    root: Path,
    images: Sequence[str],
    advance: Callable[[int], None] = lambda count: None,
    ranks: Ranks | None = None,
) -> TokenCache:
    """Return the tokens of ``images``, computing and storing those that are not in the store yet.

    Args:
        folder: folder of all stores.
        loaded: the frozen backbone and its geometry; its network is put in eval mode.
        root: folder that image paths are relative to.
        images: paths of the images, without duplicates.
        advance: called with the number of images done since the last call.
        ranks: the processes that share the work, all of which call this function; by default only this one.

    Raises:
        DataError: if no image can be read, or the canvas varies with the image.
        EnvironmentProblem: if the disk is full.
    """
    ranks = ranks or Ranks()
    store, digests = open_store(folder, loaded), ImageDigests(folder / "digests.jsonl")
    encoder = ImageEncoder(loaded.network.eval(), loaded.geometry, root)
    sha256s: dict[str, str | None] = {}
    unreadable: dict[str, str] = {}
    with store.writing() if ranks.is_first else nullcontext():
        ranks.wait()  # until the first process holds the lock for all
        store.refresh()
        shown = 0
        for position, start in ranks.draw(range(0, len(images), _BATCH)):
            batch = images[start : start + _BATCH]
            of_batch = dict(zip(batch, encoder.digests(batch, digests), strict=True))
            unreadable |= _add(store, encoder, of_batch)
            sha256s |= of_batch
            digests.save()
            done = min((position + 1) * _BATCH, len(images))  # those between are other processes', about as far
            advance(done - shown)
            shown = done
        ranks.wait()
    advance(len(images) - shown)
    store.refresh()
    for others, reasons in ranks.gather((sha256s, unreadable)):
        sha256s, unreadable = sha256s | others, unreadable | reasons
    rows = {image: store.rows[sha256] for image, sha256 in sha256s.items() if sha256 in store.rows}
    if not rows:
        raise DataError(next(iter(unreadable.values()), f"{root}: no image to encode"))
    return TokenCache(images, store.tokens(), unreadable, rows)


def token_folder(own: Path) -> Path:
    """Return the folder of a study's visual tokens: ``EYESWAP_TOKENS``, which studies can share, or its own folder."""
    return shared_token_folder() or own


def shared_token_folder() -> Path | None:
    """Return the folder of ``EYESWAP_TOKENS``, if it is set."""
    shared = os.environ.get("EYESWAP_TOKENS")
    return Path(shared) if shared else None


def open_store(folder: Path, loaded: LoadedBackbone) -> TokenStore:
    """Return the store of a backbone and its geometry for this code and the backbone's current device.

    Identical backbones share a store, whatever their names. The key covers everything that affects tokens: new code,
    another version of a package, another device or another precision never get old tokens.
    """
    about = {**backbone_identity(loaded), "made_by": _made_by(loaded)}
    return TokenStore(folder / digest(about)[:24], {"name": loaded.name, **about})


def _made_by(loaded: LoadedBackbone) -> dict[str, str | None]:
    """Return the code, package versions, device and precision that tokens depend on."""
    parameter = next(loaded.network.parameters(), torch.empty(0))  # a network may have none
    versions = {package: version_of(package) for package in ("torch", "pillow", "timm")}
    return {
        "code": code_version(*_CODE),
        **versions,
        "device": parameter.device.type,
        "precision": str(parameter.dtype).removeprefix("torch."),
    }


def backbone_identity(loaded: LoadedBackbone) -> dict[str, Any]:
    """Return everything other than our own code that determines the tokens a frozen backbone makes of an image."""
    entry, key = loaded.entry, loaded.weights_key
    return {
        "weights_sha256": loaded.weights_sha256,
        **({} if key is None else {"weights_key": key}),
        "network": None if entry is None else [entry.family, entry.model_dump(mode="json")["architecture"]],
        "tap": loaded.tap if entry is None else entry.model_dump(mode="json")["tap"],
        "own_file_sha256": BackboneName.parse(loaded.name).file_sha256,
        "geometry": loaded.geometry.canonical(),
    }


def _add(store: TokenStore, encoder: ImageEncoder, sha256s: Mapping[str, str | None]) -> dict[str, str]:
    """Encode the images that a store lacks, given by path and digest; return the reason for each unreadable one."""
    missing: dict[str, str] = {}  # identical files only once
    for image, sha256 in sha256s.items():
        if sha256 is not None and sha256 not in store.rows:
            missing.setdefault(sha256, image)
    tokens, unreadable = encoder.read(list(missing.values()))
    readable = [sha256 for sha256, image in missing.items() if image not in unreadable]
    for sha256, image_tokens in zip(readable, tokens, strict=True):
        shape = store.shape or tokens[0].shape
        if image_tokens.shape != shape:
            raise DataError(
                f"{missing[sha256]}: {len(image_tokens)} visual tokens, others have {shape[0]}; tokens of a varying "
                f"canvas ({encoder.geometry.strategy}) cannot be cached: choose another geometry"
            )
        if not bool(image_tokens.isfinite().all()):
            raise DataError(f"{missing[sha256]}: visual tokens are not finite, or beyond float16's range of 65,504")
    if readable:
        store.append(readable, [image_tokens.half().cpu().numpy() for image_tokens in tokens])
    _, reasons = encoder.read([image for image, sha256 in sha256s.items() if sha256 is None])
    for image, sha256 in sha256s.items():
        first = missing.get(sha256 or "")
        if first in unreadable:
            reasons[image] = unreadable[first]
    return reasons
