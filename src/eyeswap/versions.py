"""Versions of packages, and of eyeswap's own code: a digest of its source, the code version."""

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
        parts: only files below these folders of the package, or these files; all if none are given.
    """
    root = Path(eyeswap.__file__).parent
    places = [root / part for part in parts] or [root]
    found = {file for place in places for file in (place.rglob("*") if place.is_dir() else [place])}
    files = sorted(path for path in found if path.suffix in SOURCE_SUFFIXES)
    total = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()
