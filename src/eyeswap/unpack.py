"""Unpack files from downloaded archives (zip, tar), which are treated as hostile.

If an archive contains a path outside of its folder, a link, a device, or far more data than its size makes plausible,
nothing is unpacked. Output appears under its final name only when it is complete.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from eyeswap.errors import DataError, EnvironmentProblem
from eyeswap.files import atomic_path, check_room
from eyeswap.progress import Progress

_PLAUSIBLE_BYTES = 1 << 30  # any archive may unpack to this much,
_PLAUSIBLE_RATIO = 20  # or to this many times its size
_ZIP = (b"PK\3\4", b"PK\5\6")  # the first bytes of a zip file, and of an empty one
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Entry:
    """A file or folder of an archive.

    Attributes:
        name: path in the archive, unchanged.
        num_bytes: unpacked size as declared in the archive; readers stop there.
        is_file: whether it is a regular file.
        is_special: whether it is a link, a device or the like.
        open: opens it for reading.
    """

    name: str
    num_bytes: int
    is_file: bool
    is_special: bool
    open: Callable[[], IO[bytes] | None]

    @property
    def parts(self) -> tuple[str, ...]:
        """The components of the path in the archive."""
        return PurePosixPath(self.name).parts

    def read(self) -> bytes:
        """Return the content."""
        with self._stream() as stream:
            return stream.read()

    def copy(self, path: Path) -> None:
        """Write the content to a file."""
        with self._stream() as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def _stream(self) -> IO[bytes]:
        stream = self.open()
        if stream is None:
            raise DataError(f"{self.name}: cannot be read from the archive")
        return stream


def unpack(archive: Path, member: str, target: Path, board: Progress | None = None) -> None:
    """Unpack one file or folder of an archive.

    Args:
        archive: a zip or tar file.
        member: path of the file or folder, which may be nested in further folders; of several matches the outermost.
        target: path to write; must not exist.
        board: shows how many files of a folder are done.

    Raises:
        DataError: if the file is not an archive, does not contain the member, or is hostile; nothing is unpacked then.
        EnvironmentProblem: if there is not enough disk space.
    """
    try:
        with open_archive(archive) as entries:
            refuse_hostile(archive, entries)
            files = _inside(entries, tuple(member.split("/")))
            if not files:
                raise DataError(f"{archive.name}: contains no {member}; the publisher may have changed the archive")
            _refuse_too_large(archive, [entry for entry, _ in files], target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if files[0][1] == PurePosixPath("."):
                with atomic_path(target) as temporary:
                    files[0][0].copy(temporary)
            else:
                _unpack_folder(files, target, board)
    except OSError as error:
        raise EnvironmentProblem(f"{target}: {error.strerror or error} while unpacking {archive.name}") from None


@contextlib.contextmanager
def open_archive(archive: Path) -> Iterator[list[Entry]]:
    """Open a zip or tar file and yield its entries.

    Raises:
        DataError: if the file is not an archive, or turns out to be damaged while it is read.
    """
    with archive.open("rb") as stream:
        is_zip = stream.read(4) in _ZIP  # not is_zipfile: a tar that ends with a zip, such as weights, is a tar
    try:
        if is_zip:
            with zipfile.ZipFile(archive) as opened:
                yield [_of_zip(opened, info) for info in opened.infolist()]
        else:
            with tarfile.open(archive) as tar:
                yield [_of_tar(tar, info) for info in tar]
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :")
        raise DataError(f"{archive}: not a complete archive: {reason}") from None


def _of_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    is_special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    return Entry(
        info.orig_filename, info.file_size, not info.filename.endswith("/"), is_special, lambda: opened.open(info)
    )


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Entry:
    is_special = not (info.isfile() or info.isdir())
    return Entry(info.name, info.size, info.isfile(), is_special, lambda: tar.extractfile(info))


def refuse_hostile(archive: Path, entries: Sequence[Entry]) -> None:
    """Check that no entry would be written outside of the target folder, and none is a link or a device.

    Raises:
        DataError: naming the first that would.
    """
    for entry in entries:
        leaves = (
            not entry.name
            or ".." in entry.parts
            or entry.name.startswith("/")
            or any(mark in entry.name for mark in "\\\0")
        )
        if leaves or entry.is_special:
            problem = "leaves its folder" if leaves else "is a link or a device"
            raise DataError(f"{archive.name}: refused, entry {entry.name[:80]!r} {problem}")


def _inside(entries: Sequence[Entry], member: tuple[str, ...]) -> list[tuple[Entry, PurePosixPath]]:
    """Return the files at or below the outermost match of a member, with their paths relative to it."""
    matches: dict[int, list[tuple[Entry, PurePosixPath]]] = {}
    for entry in entries:
        if entry.is_file:
            ends = range(len(member), len(entry.parts) + 1)
            for end in (end for end in ends if entry.parts[end - len(member) : end] == member):
                matches.setdefault(end, []).append((entry, PurePosixPath(*entry.parts[end:])))
                break
    return matches[min(matches)] if matches else []


def _refuse_too_large(archive: Path, entries: Sequence[Entry], target: Path) -> None:
    size, total = archive.stat().st_size, sum(entry.num_bytes for entry in entries)
    if total > max(_PLAUSIBLE_BYTES, _PLAUSIBLE_RATIO * size):
        raise DataError(f"{archive.name}: refused, {size:,} bytes that unpack to {total:,}")
    check_room(target, total, "unpacking")


def _unpack_folder(files: Sequence[tuple[Entry, PurePosixPath]], target: Path, board: Progress | None) -> None:
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for entry, path in board.track(files, f"unpacking {target.name}", len(files)) if board else files:
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            entry.copy(temporary / path)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
