"""What a run ran on: versions, machine, threads and the digest of eyeswap's own source (the code version)."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import eyeswap
from eyeswap.runs.recorded import Recorded

PACKAGES = ("torch", "transformers", "numpy", "numba", "tokenizers", "safetensors", "scipy", "pillow")
SOURCE_SUFFIXES = (".py", ".yaml")


class Environment(Recorded):
    """What a run ran on, ``environment.json``.

    Attributes:
        eyeswap: version of eyeswap.
        code_version: digest of its source, see `code_version`.
        python: version of Python.
        packages: versions of what decides numbers; None where one is not installed.
        platform: operating system.
        cpu: name of the processor.
        num_cores: processor cores.
        num_threads: threads that torch used.
        gpus: names of the GPUs.
    """

    eyeswap: str | None = None
    code_version: str | None = None
    python: str | None = None
    packages: dict[str, str | None] | None = None
    platform: str | None = None
    cpu: str | None = None
    num_cores: int | None = None
    num_threads: int | None = None
    gpus: list[str] | None = None


def environment() -> Environment:
    """Return versions, machine, threads and code version of this process."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Environment(
        eyeswap=version_of("eyeswap"),
        code_version=code_version(),
        python=platform.python_version(),
        packages={name: version_of(name) for name in PACKAGES},
        platform=platform.platform(),
        cpu=cpu_model(),
        num_cores=os.cpu_count(),
        num_threads=torch.get_num_threads(),
        gpus=gpus,
    )


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


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
