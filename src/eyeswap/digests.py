"""Digests of large files, computed once for as long as size and time of a file stay."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from eyeswap.download import cache_folder
from eyeswap.files import digest, sha256_of, write_text

_LARGE_BYTES = 1 << 26  # beyond, a digest is remembered on disk too


def known_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file, from memory if its path, size and time of change are as they were."""
    about = path.stat()
    return _sha256(str(path.resolve()), about.st_size, about.st_mtime_ns)


def folder_sha256(folder: Path) -> str:
    """Return the sha256 (hex) over the names and digests of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): known_sha256(path) for path in files})


@functools.lru_cache(maxsize=100_000)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    if size < _LARGE_BYTES:
        return sha256_of(Path(path))
    kept = cache_folder().parent / "digests" / digest([path, size, changed_ns])[:24]
    with contextlib.suppress(OSError):
        text = kept.read_text(encoding="ascii")
        if len(text) == 64 and text.isalnum():
            return text
    sha256 = sha256_of(Path(path))
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        write_text(kept, sha256)
    return sha256
