"""Which images a training run and its benchmarks look at."""

from __future__ import annotations

from pathlib import Path

from eyeswap.data.instruction import read_instructions
from eyeswap.errors import DataError, MissingFileError
from eyeswap.evaluation import BENCHMARKS
from eyeswap.recipe import FolderData

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def images_of(data: Path) -> tuple[Path, list[str]]:
    """Return the images that some data refer to.

    Args:
        data: an instruction file in the LLaVA format, whose images lie below its own folder; or a data root, of which
            the instruction file and all benchmarks at their official places are read; or any other folder of images.

    Returns:
        The folder that paths are relative to, and the paths, each once.

    Raises:
        DataError: if there is no such file, or no image.
    """
    if data.is_file():
        root, images = data.parent, _trained(data, "")
    elif data.is_dir():
        root, images = data, _below_root(data) or _all_files(data)
    else:
        raise DataError(f"{data}: no such file or folder")
    if not images:
        raise DataError(f"{data}: refers to no image, and holds none")
    return root, list(dict.fromkeys(images))


def _trained(path: Path, image_folder: str) -> list[str]:
    found = (instruction.image for instruction in read_instructions(path, image_folder))
    return [image for image in found if image is not None]


def _below_root(root: Path) -> list[str]:
    instruction = Path(FolderData(folder=str(root)).instruction)
    images = _trained(root / instruction, instruction.parent.as_posix()) if (root / instruction).is_file() else []
    for benchmark in BENCHMARKS.values():
        try:
            images += [example.image for example in benchmark.examples(root)]
        except MissingFileError:
            continue
    return images


def _all_files(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in found)
