"""Digests of files, cached until size or modification time of a file change."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from eyeswap.download import cache_folder
from eyeswap.files import digest, sha256_of, write_text

_LARGE_BYTES = 1 << 26  # digests of larger files are also cached on disk


def known_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file, cached by path, size and modification time."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def folder_sha256(folder: Path) -> str:
    """Return the sha256 (hex) over the names and digests of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): known_sha256(path) for path in files})


@functools.lru_cache(maxsize=100_000)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    if size < _LARGE_BYTES:
        return sha256_of(Path(path))
    cached = cache_folder().parent / "digests" / digest([path, size, changed_ns])[:24]
    with contextlib.suppress(OSError):
        text = cached.read_text(encoding="ascii")
        if len(text) == 64 and text.isalnum():
            return text
    sha256 = sha256_of(Path(path))
    with contextlib.suppress(OSError):  # an unwritable cache is simply not used
        write_text(cached, sha256)
    return sha256
