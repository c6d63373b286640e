"""Visual tokens on disk, keyed by the digest of their image: append-only.

A store belongs to one backbone and one geometry. ``tokens.f16`` holds the tokens of one image after another; each
line of ``index.txt``, 74 bytes long, holds the sha256 of an image file and a checksum of its tokens. Tokens are written
to disk before their line, so an interrupted process leaves a valid store that ends at its last complete line. Identical
image files are stored once, whatever their paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from eyeswap.errors import DataError, EnvironmentProblem
from eyeswap.files import read_json, sha256_of, write_json

Tokens = npt.NDArray[np.float16]
_LINE_BYTES = 64 + 1 + 8 + 1


class TokenStore:
    """The tokens of one backbone and geometry.

    Args:
        folder: folder of the store.
        about: description of the backbone and geometry, written to ``about.json`` for readers.

    Attributes:
        rows: row number of each image, by the sha256 of its file.
        shape: number and width of an image's tokens; None while the store is empty.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        self.folder, self._description = folder, dict(about or {})
        self._index, self._data, self._about = folder / "index.txt", folder / "tokens.f16", folder / "about.json"
        self.rows: dict[str, int] = {}
        self.shape: tuple[int, int] | None = None
        self._checksums: list[int] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self._checksums)

    @property
    def row_bytes(self) -> int:
        """Bytes per image; 0 while the store is empty."""
        return 0 if self.shape is None else self.shape[0] * self.shape[1] * 2

    def refresh(self) -> None:
        """Read what was added to the index since the last time; an incomplete last entry is ignored."""
        is_there = self._about.is_file() and self._index.is_file() and self._data.is_file()
        if not is_there or self._num_complete() < len(self):  # removed, or made anew
            self.rows, self._checksums, self.shape = {}, [], None
        if not is_there:
            return
        if self.shape is None:
            count, width = read_json(self._about)["shape"]
            self.shape = (count, width)
        with self._index.open("rb") as stream:
            stream.seek(len(self) * _LINE_BYTES)
            for _ in range(self._num_complete() - len(self)):
                line = stream.read(_LINE_BYTES)
                if len(line) < _LINE_BYTES or not line.endswith(b"\n"):
                    break
                image, checksum = line.split()
                self.rows[image.decode()] = len(self)
                self._checksums.append(int(checksum, 16))

    def _num_complete(self) -> int:
        """Return for how many images all tokens may be there."""
        count, width = self.shape or read_json(self._about)["shape"]
        return self._data.stat().st_size // int(count * width * 2)

    def tokens(self) -> Tokens:
        """Return the tokens ``[rows, N, D]``, memory-mapped.

        Raises:
            DataError: if the store is empty.
        """
        if self.shape is None:
            raise DataError(f"{self.folder}: contains no visual tokens")
        return np.memmap(self._data, np.float16, "r", shape=(len(self), *self.shape))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock while it is filled; others who want to fill it wait here, and then see what is there.

        Processes of one group fill it together: the first one holds this lock for all of them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self.refresh()
            try:
                yield
            finally:
                if not self._about.is_file():  # nothing was written
                    for lock in self.folder.glob(".*lock"):
                        lock.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        self.folder.rmdir()

    def append(self, images: Sequence[str], tokens: Sequence[Tokens]) -> None:
        """Add images, unless another process has added them in the meantime; only call this inside `writing`.

        Args:
            images: sha256 of each image file.
            tokens: ``[N, D]`` tokens of each image.

        Raises:
            EnvironmentProblem: if the disk is full.
        """
        with FileLock(self.folder / ".append.lock"):
            self.refresh()
            if self.shape is None:
                self.shape = (tokens[0].shape[0], tokens[0].shape[1])
                write_json(self._about, {**self._description, "shape": list(self.shape), "dtype": "float16"})
            new = {image: row for image, row in zip(images, tokens, strict=True) if image not in self.rows}
            content = [np.ascontiguousarray(row).tobytes() for row in new.values()]
            checksums = [zlib.crc32(row) for row in content]
            lines = "".join(f"{image} {checksum:08x}\n" for image, checksum in zip(new, checksums, strict=True))
            try:
                _write_at(self._data, len(self) * self.row_bytes, b"".join(content))
                _write_at(self._index, len(self) * _LINE_BYTES, lines.encode())
            except OSError as error:
                raise EnvironmentProblem(
                    f"{self.folder}: {error.strerror or error} after {len(self):,} images; free disk space and run the "
                    "same command again to resume"
                ) from None
            self.rows |= {image: len(self) + number for number, image in enumerate(new)}
            self._checksums += checksums

    def check(self, rows: Sequence[int]) -> None:
        """Compare rows with their checksums.

        Raises:
            DataError: naming the first row that has changed since it was written.
        """
        tokens = self.tokens()
        for row in rows:
            if zlib.crc32(np.ascontiguousarray(tokens[row]).tobytes()) != self._checksums[row]:
                raise DataError(
                    f"{self._data}: row {row} has changed since it was written; delete {self.folder} and run again"
                )


class ImageDigests:
    """The sha256 of image files, cached by path, size and modification time, so that each file is read once.

    Args:
        file: the cache file, one line per image.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, tuple[int, int, str]] = {}
        self._new: list[str] = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            with contextlib.suppress(ValueError):  # an incomplete line
                path, size, changed_ns, sha256 = json.loads(line)
                self._known[path] = (size, changed_ns, sha256)

    def known(self, path: Path) -> str | None:
        """Return the digest of a file if it is cached; the file is not read."""
        try:
            stat = path.stat()
        except OSError:
            return None
        size, changed_ns, sha256 = self._known.get(_name(path), (-1, -1, ""))
        return sha256 if (size, changed_ns) == (stat.st_size, stat.st_mtime_ns) else None

    def of(self, path: Path) -> str | None:
        """Return the digest of a file; None if it cannot be read."""
        sha256 = self.known(path)
        if sha256 is None:
            try:
                stat, sha256 = path.stat(), sha256_of(path)
            except OSError:
                return None
            self._known[_name(path)] = (stat.st_size, stat.st_mtime_ns, sha256)
            self._new.append(json.dumps([_name(path), *self._known[_name(path)]]))
        return sha256

    def save(self) -> None:
        """Append new digests to the file."""
        if self._new:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{line}\n" for line in self._new))
            self._new.clear()


def _name(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolving links would read every folder of the path


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Truncate a file to ``offset`` bytes, append the content, and wait until it is on disk."""
    path.touch()
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.truncate()
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
