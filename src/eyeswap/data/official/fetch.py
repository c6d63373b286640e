"""Fetching the official files of data sets, as far as they can be downloaded, into their folders.

Existing files are left alone. Images that several sets share are downloaded once and linked. Interrupted downloads are
resumed. For files that a program cannot download there are instructions for a person.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from filelock import FileLock

from eyeswap.data.official.catalogue import DataSet, FoundFile, look, sets_named
from eyeswap.data.official.families import Source
from eyeswap.download import download, remote_bytes
from eyeswap.errors import CheckpointError, DataError, EnvironmentProblem
from eyeswap.files import atomic_path, check_room
from eyeswap.progress import progress
from eyeswap.unpack import unpack


@dataclass
class FetchPlan:
    """The steps that complete the files of some data sets.

    Attributes:
        here: sources that are on disk.
        links: sources whose images another set has, or will have, with the path of that folder.
        downloads: sources to download, by address.
        by_hand: sources that a person has to get.
        num_bytes: size of each download, if the server reports it.
        unreachable: addresses that cannot be reached, with the reason.
    """

    here: list[FoundFile] = field(default_factory=list)
    links: list[tuple[FoundFile, str]] = field(default_factory=list)
    downloads: dict[str, list[FoundFile]] = field(default_factory=dict)
    by_hand: list[FoundFile] = field(default_factory=list)
    num_bytes: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Number of bytes to download, as far as known."""
        return sum(self.num_bytes.values())

    @property
    def disk_bytes(self) -> int:
        """Disk space needed: all downloads, and the largest archive once more while it is unpacked."""
        return self.total_bytes + max(self.num_bytes.values(), default=0)


def plan_fetch(sets: Sequence[DataSet], root: Path) -> FetchPlan:
    """Plan what to download for some data sets below a root; servers are asked for sizes only."""
    plan = FetchPlan()
    shared = _image_folders(file for data_set in sets_named("all") for file in look(data_set, root) if file.exists)
    for file in (file for data_set in sets for file in look(data_set, root)):
        key = (file.source.url, file.source.member)
        if file.exists:
            plan.here.append(file)
        elif file.source.manual:
            plan.by_hand.append(file)
        elif file.source.is_images and key in shared:
            plan.links.append((file, shared[key]))
        else:
            plan.downloads.setdefault(file.source.url, []).append(file)
            shared |= _image_folders([file])
    for url in list(plan.downloads):
        try:
            size = remote_bytes(url)
        except DataError as error:
            plan.unreachable[url] = str(error)
        else:
            plan.num_bytes |= {} if size is None else {url: size}
    return plan


def _image_folders(files: Iterable[FoundFile]) -> dict[tuple[str, str], str]:
    return {(file.source.url, file.source.member): file.path for file in files if file.source.is_images}


def check_plan_fits(plan: FetchPlan, root: Path) -> None:
    """Check that the disk has room for the downloads.

    Raises:
        EnvironmentProblem: naming the required and the free space.
    """
    check_room(root, plan.disk_bytes, "downloading and unpacking")


def fetch(plan: FetchPlan, root: Path) -> list[str]:
    """Carry out a plan; a failed download does not stop the others.

    Returns:
        One line for each address that failed.

    Raises:
        EnvironmentProblem: if the root is not writable.
    """
    problems = list(plan.unreachable.values())
    folder = root / "download" / ".fetch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cannot be created: {error.strerror}; choose another --root") from None
    with FileLock(folder / ".lock"):
        for url, wanted in plan.downloads.items():
            if url not in plan.unreachable:
                try:
                    _get(url, wanted, root, folder)
                except (CheckpointError, DataError, EnvironmentProblem) as error:
                    problems.append(str(error))
        for file, target in plan.links:
            if (root / target).is_dir() and not (root / file.path).exists():
                _link(root / file.path, root / target)
    (folder / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # partial downloads are kept, to be resumed
        folder.rmdir()
    return problems


def _get(url: str, wanted: Sequence[FoundFile], root: Path, folder: Path) -> None:
    """Download one address and move the wanted files into place."""
    wanted = [file for file in wanted if not (root / file.path).exists()]  # another process may have been faster
    if not wanted:
        return
    name = PurePosixPath(urlsplit(url).path).name
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    download(url, path, next(iter(wanted[0].source.digests), None))
    try:
        for file in wanted:
            _put(path, file.source, root / file.path)
    except DataError:
        path.unlink(missing_ok=True)  # not the expected file
        raise
    path.unlink(missing_ok=True)


def _put(path: Path, source: Source, target: Path) -> None:
    if source.member:
        with progress() as board:
            unpack(path, source.member, target, board)
        return
    with path.open("rb") as stream:
        if stream.read(64).lstrip()[:1] not in (b"{", b"["):
            raise DataError(f"{source.url}: the server sent a page, not {target.name}")
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
