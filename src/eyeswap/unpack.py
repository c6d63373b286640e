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
from eyeswap.files import atomic_path
from eyeswap.progress import Progress

_HONEST_BYTES = 1 << 30  # that any archive may unpack to
_HONEST_RATIO = 20  # or this many times its size
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class _Entry:
    """A file or folder of an archive; ``read`` opens a file."""

    name: str
    num_bytes: int
    is_file: bool
    is_special: bool
    read: Callable[[], IO[bytes] | None]

    @property
    def parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.name).parts


def unpack(archive: Path, member: str, target: Path, board: Progress) -> None:
    """Take one file or folder out of an archive.

    Args:
        archive: a zip or tar file.
        member: path of the file or folder inside, whatever folders lie around it; the outermost of several is meant.
        target: where it is put; must not exist.
        board: shows how many files are done.

    Raises:
        DataError: if it is no archive, does not hold the member, or is not to be trusted; nothing is unpacked then.
        EnvironmentProblem: if the disk has no room.
    """
    try:
        with _opened(archive) as entries:
            _refuse_hostile(archive, entries)
            wanted = _inside(entries, tuple(member.split("/")))
            if not wanted:
                raise DataError(f"{archive.name}: holds no {member}; the publisher seems to have changed it")
            _refuse_too_large(archive, [entry for entry, _ in wanted], target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if wanted[0][1] == PurePosixPath("."):
                with atomic_path(target) as temporary:
                    _copy(wanted[0][0], temporary)
            else:
                _unpack_folder(wanted, target, board)
    except _BROKEN as error:
        raise DataError(f"{archive.name}: not a whole archive: {error}") from None
    except OSError as error:
        raise EnvironmentProblem(f"{target}: {error.strerror or error} while unpacking {archive.name}") from None


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[list[_Entry]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield [_of_zip(opened, info) for info in opened.infolist()]
    else:
        with tarfile.open(archive) as tar:
            yield [_of_tar(tar, info) for info in tar]


def _of_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    is_special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    return _Entry(info.orig_filename, info.file_size, not info.is_dir(), is_special, lambda: opened.open(info))


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Entry:
    is_special = not (info.isfile() or info.isdir())
    return _Entry(info.name, info.size, info.isfile(), is_special, lambda: tar.extractfile(info))


def _refuse_hostile(archive: Path, entries: Sequence[_Entry]) -> None:
    for entry in entries:
        leaves = ".." in entry.parts or entry.name.startswith("/") or any(mark in entry.name for mark in "\\\0")
        if leaves or entry.is_special:
            what = "leaves its folder" if leaves else "is a link or a device"
            raise DataError(f"{archive.name}: refused, entry {entry.name[:80]!r} {what}")


def _inside(entries: Sequence[_Entry], member: tuple[str, ...]) -> list[tuple[_Entry, PurePosixPath]]:
    """Return the files at or below a member, and their paths relative to it; those of the outermost match only."""
    found: dict[int, list[tuple[_Entry, PurePosixPath]]] = {}
    for entry in entries:
        if entry.is_file:
            ends = range(len(member), len(entry.parts) + 1)
            for end in (end for end in ends if entry.parts[end - len(member) : end] == member):
                found.setdefault(end, []).append((entry, PurePosixPath(*entry.parts[end:])))
                break
    return found[min(found)] if found else []


def _refuse_too_large(archive: Path, entries: Sequence[_Entry], target: Path) -> None:
    size, total = archive.stat().st_size, sum(entry.num_bytes for entry in entries)
    if total > max(_HONEST_BYTES, _HONEST_RATIO * size):
        raise DataError(f"{archive.name}: refused, {size:,} bytes that unpack to {total:,}")
    folder = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if total > free:
        raise EnvironmentProblem(f"{target}: unpacking needs {total / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free")


def _unpack_folder(wanted: Sequence[tuple[_Entry, PurePosixPath]], target: Path, board: Progress) -> None:
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for entry, path in board.track(wanted, f"unpack {target.name}", len(wanted)):
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            _copy(entry, temporary / path)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(entry: _Entry, path: Path) -> None:
    """Write a file of an archive; the readers check its sum and stop at its stated size."""
    source = entry.read()
    if source is None:
        raise DataError(f"{path.name}: cannot be read from the archive")
    with source, path.open("wb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
