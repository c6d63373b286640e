"""Download official weight files once.

They are kept in one folder under their official names, so the folder can be copied to a machine without a network.
Files of the Hugging Face Hub are read from the Hub's own cache if they are already in it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from eyeswap.backbones.catalog import WeightsSource
from eyeswap.digests import known_sha256
from eyeswap.download import HUB, cache_folder, download, mirrored
from eyeswap.errors import CheckpointError, DataError
from eyeswap.unpack import unpack

logger = logging.getLogger(__name__)
_warned: set[str] = set()


def warn_non_commercial(name: str, licence: str) -> None:
    """Log, once per process and licence, that the weights of ``name`` must not be used commercially."""
    if licence not in _warned:
        _warned.add(licence)
        logger.warning("the weights of %s are under %s: for non-commercial use only", name, licence)


def address(source: WeightsSource) -> str | None:
    """Return the URL of a weights file, if any; ``HF_ENDPOINT`` may name a mirror of the Hugging Face Hub."""
    if source.hub is None:
        return source.url
    return mirrored(f"{HUB}{source.hub}/resolve/main/{source.file}")


def local_path(source: WeightsSource) -> Path:
    """Return the local path of a weights file, whether or not it has been downloaded yet."""
    path = cache_folder() / source.place
    if source.hub is not None and not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source.hub, source.file)
        if isinstance(cached, str):
            return Path(cached)
    return path


def fetch(source: WeightsSource) -> Path:
    """Return the local path of a weights file, downloading it the first time.

    Raises:
        CheckpointError: if it cannot be downloaded, or its digest differs from the catalog's.
    """
    path, url = local_path(source), address(source)
    if path.is_file():
        if source.sha256 is not None and known_sha256(path) != source.sha256:
            raise CheckpointError(f"{path}: sha256 differs from the catalog's; delete the file to download it again")
        return path
    if url is None:
        place = f"get it at {source.page} and put it at {path}, or" if source.page else "no URL is known:"
        raise CheckpointError(f"{source.file}: cannot be downloaded; {place} pass the file as weights")
    try:
        if url.endswith(".zip"):
            _fetch_inside(url, source.file, path)
        else:
            download(url, path, source.sha256)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or get the file by other means and put it at {path}") from None
    return path


def _fetch_inside(url: str, member: str, path: Path) -> None:
    """Download an archive and keep one of its files."""
    archive = path.with_name(url.rpartition("/")[2])
    download(url, archive)
    try:
        unpack(archive, member, path)
    except DataError as error:
        raise CheckpointError(f"{error}; delete {archive} to download it again") from None
    archive.unlink(missing_ok=True)
