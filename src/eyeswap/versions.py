"""Versions of packages, and the code version: a digest of eyeswap's own source."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import eyeswap

SOURCE_SUFFIXES = (".py", ".yaml", ".c")


def version_of(package: str) -> str | None:
    """Return the installed version of a package without importing it, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def code_version(*parts: str) -> str:
    """Return the sha256 (hex) of the names and contents of eyeswap's source and catalog files.

    Args:
        parts: folders and files of the package to include; all by default.
    """
    root = Path(eyeswap.__file__).parent
    paths = [root / part for part in parts] or [root]
    files = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])}
    hasher = hashlib.sha256()
    for file in sorted(file for file in files if file.suffix in SOURCE_SUFFIXES):
        content = file.read_bytes()
        hasher.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        hasher.update(content)
    return hasher.hexdigest()
