"""Get the official files of data sets: what plain downloads can give, into the folders where they belong.

What is there already is left alone. Images that several sets share are downloaded once and linked. A download that was
cut goes on where it ended. What a server does not give out to programs is named with what a person has to do.
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
    """What is to be done to have all files of some data sets.

    Attributes:
        here: sources that are on disk.
        links: sources whose images another set has, or will have, with the path of that folder.
        downloads: sources to get, by address.
        by_hand: sources that a person has to get.
        num_bytes: size of each download, where the server tells it.
        unreachable: addresses that gave no answer, and why.
    """

    here: list[FoundFile] = field(default_factory=list)
    links: list[tuple[FoundFile, str]] = field(default_factory=list)
    downloads: dict[str, list[FoundFile]] = field(default_factory=dict)
    by_hand: list[FoundFile] = field(default_factory=list)
    num_bytes: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Bytes to download, as far as they are known."""
        return sum(self.num_bytes.values())

    @property
    def disk_bytes(self) -> int:
        """Room that is needed for a while: all that is downloaded, and the largest archive beside what came of it."""
        return self.total_bytes + max(self.num_bytes.values(), default=0)


def plan_fetch(sets: Sequence[DataSet], root: Path) -> FetchPlan:
    """Return what has to be done for some data sets below a root; asks every server for sizes, downloads nothing."""
    plan = FetchPlan()
    shared = _image_folders(found for one in sets_named("all") for found in look(one, root) if found.exists)
    for found in (found for one in sets for found in look(one, root)):
        key = (found.source.url, found.source.member)
        if found.exists:
            plan.here.append(found)
        elif found.source.manual:
            plan.by_hand.append(found)
        elif found.source.is_images and key in shared:
            plan.links.append((found, shared[key]))
        else:
            plan.downloads.setdefault(found.source.url, []).append(found)
            shared |= _image_folders([found])
    for url in list(plan.downloads):
        try:
            size = remote_bytes(url)
        except DataError as error:
            plan.unreachable[url] = str(error)
        else:
            plan.num_bytes |= {} if size is None else {url: size}
    return plan


def _image_folders(found: Iterable[FoundFile]) -> dict[tuple[str, str], str]:
    return {(one.source.url, one.source.member): one.path for one in found if one.source.is_images}


def check_plan_fits(plan: FetchPlan, root: Path) -> None:
    """Check that the disk holds what is to be downloaded.

    Raises:
        EnvironmentProblem: with the numbers.
    """
    check_room(root, plan.disk_bytes, "downloading and unpacking")


def fetch(plan: FetchPlan, root: Path) -> list[str]:
    """Carry out a plan; a download that fails does not hinder the others.

    Returns:
        What went wrong, one line for each address.

    Raises:
        EnvironmentProblem: if nothing can be written below the root.
    """
    problems = list(plan.unreachable.values())
    folder = root / "download" / ".fetch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cannot be made: {error.strerror}; choose another --root") from None
    with FileLock(folder / ".lock"):
        for url, wanted in plan.downloads.items():
            if url not in plan.unreachable:
                try:
                    _get(url, wanted, root, folder)
                except (CheckpointError, DataError, EnvironmentProblem) as error:
                    problems.append(str(error))
        for found, target in plan.links:
            if (root / target).is_dir() and not (root / found.path).exists():
                _link(root / found.path, root / target)
    (folder / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # parts of a download that can go on are kept
        folder.rmdir()
    return problems


def _get(url: str, wanted: Sequence[FoundFile], root: Path, folder: Path) -> None:
    """Download one address and put what is wanted of it into place."""
    wanted = [found for found in wanted if not (root / found.path).exists()]  # another process may have been here
    if not wanted:
        return
    name = PurePosixPath(urlsplit(url).path).name
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    download(url, path, next(iter(wanted[0].source.digests), None))
    try:
        for found in wanted:
            _put(path, found.source, root / found.path)
    except DataError:
        path.unlink(missing_ok=True)  # not the file that was meant
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
