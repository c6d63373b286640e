"""Look at image files on disk before they are needed: which are missing, and which cannot be decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from eyeswap.errors import DataError, EnvironmentProblem
from eyeswap.files import open_image
from eyeswap.progress import Progress

_CHUNK = 64  # images that a worker process takes at a time
_FEW = 200  # images that are decoded here before worker processes would have started


def missing_images(root: Path, images: Sequence[str]) -> list[str]:
    """Return the images that are not files below ``root``; every folder is listed once."""
    names: dict[Path, set[str]] = {}
    missing = []
    for image in images:
        folder, _, name = image.rpartition("/")
        path = root / folder
        if path not in names:
            names[path] = {entry.name for entry in os.scandir(path) if entry.is_file()} if path.is_dir() else set()
        if name not in names[path]:
            missing.append(image)
    return missing


def other_endings(root: Path, images: Sequence[str]) -> dict[str, str]:
    """Return, of images that are missing, those that lie there under another ending, and under which name."""
    names: dict[Path, dict[str, str]] = {}
    found = {}
    for image in images:
        path = root / image
        if path.parent not in names:
            there = path.parent.iterdir() if path.parent.is_dir() else ()
            names[path.parent] = {file.stem: file.name for file in there}
        if path.stem in names[path.parent]:
            found[image] = names[path.parent][path.stem]
    return found


def bad_images(
    root: Path,
    sizes: Mapping[str, tuple[int, int] | None],
    title: str = "open images",
    board: Progress | None = None,
    workers: int | None = None,
) -> dict[str, str]:
    """Decode images; return those that cannot be read or differ from their stated size, with the reason.

    Args:
        root: folder that image paths are relative to.
        sizes: stated (width, height) of each image, in pixels; None if none is stated.
        title: of the progress bar.
        board: where progress is shown.
        workers: processes that decode; None takes one for each processor.

    Raises:
        EnvironmentProblem: if a worker process was ended from outside.
    """
    task = board.task(title, len(sizes)) if board else None
    found = {}
    try:
        for image, text in _reasons(partial(_reason, root), sizes.items(), len(sizes), workers):
            if text:
                found[image] = text
            if task:
                task.advance()
    except BrokenProcessPool:
        raise EnvironmentProblem(
            f"{root}: a process that decodes images was ended from outside, perhaps for lack of memory; run it again"
        ) from None
    return found


Stated = tuple[str, tuple[int, int] | None]


def _reasons(
    reason: partial[tuple[str, str]], images: Iterable[Stated], count: int, workers: int | None
) -> Iterator[tuple[str, str]]:
    if count < _FEW:
        yield from map(reason, images)
        return
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(reason, images, chunksize=_CHUNK)


def _reason(root: Path, image_and_size: Stated) -> tuple[str, str]:
    """Return an image and why it cannot be used; nothing if it can."""
    image, stated = image_and_size
    try:
        size = open_image(root / image).size
    except DataError as error:
        return image, str(error).removeprefix(f"{root / image}: ")
    other = stated is not None and stated != size
    return image, f"is {size[0]}x{size[1]}, stated {stated[0]}x{stated[1]}" if stated and other else ""
