"""Visual tokens on disk, by the digest of the image they were made from: appended to, never rewritten.

A store belongs to one backbone and one geometry. ``tokens.f16`` holds the tokens of one image after another; each
line of ``index.txt``, 74 bytes long, holds the sha256 of an image file and a checksum of its tokens. Tokens are on disk
before their line is, so whatever ends a process leaves a store that goes on behind its last whole line. Equal files are
stored once, wherever they lie and whatever they are called.
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
        folder: where they lie.
        about: what they are of, kept beside them for readers.

    Attributes:
        rows: row number of each image, by the sha256 of its file.
        shape: number and width of an image's tokens; None while the store is empty.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        self.folder, self._description = folder, dict(about or {})
        self._index, self._data, self._about = folder / "index.txt", folder / "tokens.f16", folder / "about.json"
        self.rows: dict[str, int] = {}
        self.shape: tuple[int, int] | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._checksums)

    @property
    def row_bytes(self) -> int:
        """Bytes of an image's tokens; 0 while the store is empty."""
        return 0 if self.shape is None else self.shape[0] * self.shape[1] * 2

    def refresh(self) -> None:
        """Read what is there by now; whatever was cut off in the middle is left out."""
        self._checksums: list[int] = []
        self.rows = {}
        if not (self._about.is_file() and self._index.is_file() and self._data.is_file()):
            return
        count, width = read_json(self._about)["shape"]
        self.shape = (count, width)
        most = self._data.stat().st_size // self.row_bytes
        lines = self._index.read_bytes()[: most * _LINE_BYTES].splitlines(keepends=True)
        for row, line in enumerate(line for line in lines if len(line) == _LINE_BYTES):
            image, checksum = line.split()
            self.rows[image.decode()] = row
            self._checksums.append(int(checksum, 16))

    def tokens(self) -> Tokens:
        """Return the tokens ``[rows, N, D]``, memory-mapped.

        Raises:
            DataError: if the store is empty.
        """
        if self.shape is None:
            raise DataError(f"{self.folder}: holds no visual tokens")
        return np.memmap(self._data, np.float16, "r", shape=(len(self), *self.shape))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one process that appends; others wait here, and then see what it wrote."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self.refresh()
            try:
                yield
            finally:
                if not self._about.is_file():  # nothing was written
                    (self.folder / ".lock").unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        self.folder.rmdir()

    def append(self, images: Sequence[str], tokens: Sequence[Tokens]) -> None:
        """Add images; call it while `writing`.

        Args:
            images: the sha256 of each image's file, none of them in the store.
            tokens: ``[N, D]`` of each.

        Raises:
            EnvironmentProblem: if the disk is full.
        """
        if self.shape is None:
            self.shape = (tokens[0].shape[0], tokens[0].shape[1])
            write_json(self._about, {**self._description, "shape": list(self.shape), "dtype": "float16"})
        content = [np.ascontiguousarray(one).tobytes() for one in tokens]
        checksums = [zlib.crc32(one) for one in content]
        lines = "".join(f"{image} {checksum:08x}\n" for image, checksum in zip(images, checksums, strict=True))
        try:
            _write_at(self._data, len(self) * self.row_bytes, b"".join(content))
            _write_at(self._index, len(self) * _LINE_BYTES, lines.encode())
        except OSError as error:
            raise EnvironmentProblem(
                f"{self.folder}: {error.strerror or error} after {len(self):,} images; make room and run the same "
                "command again, it goes on from there"
            ) from None
        self.rows |= {image: len(self) + number for number, image in enumerate(images)}
        self._checksums += checksums

    def check(self, rows: Sequence[int]) -> None:
        """Compare rows with their checksums.

        Raises:
            DataError: naming the first that was changed since it was written.
        """
        tokens = self.tokens()
        for row in rows:
            if zlib.crc32(np.ascontiguousarray(tokens[row]).tobytes()) != self._checksums[row]:
                raise DataError(f"{self._data}: row {row} is not what was written; delete {self.folder}, cache again")


class ImageDigests:
    """The sha256 of image files, remembered by path, size and time of change, so that each is read once.

    Args:
        file: where they are remembered, one line an image.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, tuple[int, int, str]] = {}
        self._new: list[str] = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            with contextlib.suppress(ValueError):  # a torn line
                path, size, changed_ns, sha256 = json.loads(line)
                self._known[path] = (size, changed_ns, sha256)

    def known(self, path: Path) -> str | None:
        """Return the digest of a file if it is remembered; the file is not read."""
        try:
            facts = path.stat()
        except OSError:
            return None
        size, changed_ns, sha256 = self._known.get(_name(path), (-1, -1, ""))
        return sha256 if (size, changed_ns) == (facts.st_size, facts.st_mtime_ns) else None

    def of(self, path: Path) -> str | None:
        """Return the digest of a file, None if it cannot be read."""
        sha256 = self.known(path)
        if sha256 is None:
            try:
                facts, sha256 = path.stat(), sha256_of(path)
            except OSError:
                return None
            self._known[_name(path)] = (facts.st_size, facts.st_mtime_ns, sha256)
            self._new.append(json.dumps([_name(path), *self._known[_name(path)]]))
        return sha256

    def save(self) -> None:
        """Write down what is new."""
        if self._new:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{line}\n" for line in self._new))
            self._new.clear()


def _name(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolving links would cost a look at every folder


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Write behind ``offset`` bytes of a file, drop what was there, and wait until it is on disk."""
    path.touch()
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.truncate()
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
