"""Take files out of downloaded archives (zip, tar), as if they were hostile.

A name that leaves its folder, a link or a device, or far more bytes than an archive of that size can honestly hold, and
nothing is unpacked. What is unpacked appears under its final name when it is whole.
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

_HONEST_BYTES = 1 << 30  # that any archive may unpack to
_HONEST_RATIO = 20  # or this many times its size
_ZIP = (b"PK\3\4", b"PK\5\6")  # how a zip begins, and an empty one
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Entry:
    """A file or folder of an archive.

    Attributes:
        name: path inside, as the archive has it.
        num_bytes: size when unpacked, as the archive says; readers stop there.
        is_file: whether it is a plain file.
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
        """The parts of the path inside."""
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
    """Take one file or folder out of an archive.

    Args:
        archive: a zip or tar file.
        member: path of the file or folder inside, whatever folders lie around it; the outermost of several is meant.
        target: where it is put; must not exist.
        board: shows how many files of a folder are done.

    Raises:
        DataError: if it is no archive, does not hold the member, or is not to be trusted; nothing is unpacked then.
        EnvironmentProblem: if the disk has no room.
    """
    try:
        with open_archive(archive) as entries:
            refuse_hostile(archive, entries)
            wanted = _inside(entries, tuple(member.split("/")))
            if not wanted:
                raise DataError(f"{archive.name}: holds no {member}; the publisher seems to have changed it")
            _refuse_too_large(archive, [entry for entry, _ in wanted], target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if wanted[0][1] == PurePosixPath("."):
                with atomic_path(target) as temporary:
                    wanted[0][0].copy(temporary)
            else:
                _unpack_folder(wanted, target, board)
    except OSError as error:
        raise EnvironmentProblem(f"{target}: {error.strerror or error} while unpacking {archive.name}") from None


@contextlib.contextmanager
def open_archive(archive: Path) -> Iterator[list[Entry]]:
    """Open a zip or tar file and give what it holds.

    Raises:
        DataError: if it is no archive, or turns out to be broken while it is read.
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{archive.name}: not a whole archive: {reason}") from None


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
    """Check that no entry leaves the folder it is unpacked into, and none is a link or a device.

    Raises:
        DataError: naming the first that does.
    """
    for entry in entries:
        leaves = (
            not entry.name
            or ".." in entry.parts
            or entry.name.startswith("/")
            or any(mark in entry.name for mark in "\\\0")
        )
        if leaves or entry.is_special:
            what = "leaves its folder" if leaves else "is a link or a device"
            raise DataError(f"{archive.name}: refused, entry {entry.name[:80]!r} {what}")


def _inside(entries: Sequence[Entry], member: tuple[str, ...]) -> list[tuple[Entry, PurePosixPath]]:
    """Return the files at or below a member, and their paths relative to it; those of the outermost match only."""
    found: dict[int, list[tuple[Entry, PurePosixPath]]] = {}
    for entry in entries:
        if entry.is_file:
            ends = range(len(member), len(entry.parts) + 1)
            for end in (end for end in ends if entry.parts[end - len(member) : end] == member):
                found.setdefault(end, []).append((entry, PurePosixPath(*entry.parts[end:])))
                break
    return found[min(found)] if found else []


def _refuse_too_large(archive: Path, entries: Sequence[Entry], target: Path) -> None:
    size, total = archive.stat().st_size, sum(entry.num_bytes for entry in entries)
    if total > max(_HONEST_BYTES, _HONEST_RATIO * size):
        raise DataError(f"{archive.name}: refused, {size:,} bytes that unpack to {total:,}")
    check_room(target, total, "unpacking")


def _unpack_folder(wanted: Sequence[tuple[Entry, PurePosixPath]], target: Path, board: Progress | None) -> None:
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for entry, path in board.track(wanted, f"unpack {target.name}", len(wanted)) if board else wanted:
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            entry.copy(temporary / path)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
