"""The software and hardware of a run: versions, machine, threads."""

from __future__ import annotations

import platform
from pathlib import Path

from eyeswap.processes import usable_cpus
from eyeswap.runs.recorded import Recorded
from eyeswap.versions import code_version, version_of

PACKAGES = ("torch", "transformers", "numpy", "numba", "tokenizers", "safetensors", "scipy", "pillow", "timm", "peft")


class Environment(Recorded):
    """The software and hardware of a run, ``environment.json``.

    Attributes:
        eyeswap: version of eyeswap.
        code_version: digest of its source, see `eyeswap.versions.code_version`.
        python: version of Python.
        packages: versions of the packages that affect results; None where one is not installed.
        platform: operating system.
        cpu: processor model.
        num_cores: number of processors that the process may use.
        num_threads: number of threads that torch used.
        gpus: GPU models.
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
    """Return the environment of this process."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Environment(
        eyeswap=version_of("eyeswap"),
        code_version=code_version(),
        python=platform.python_version(),
        packages={name: version_of(name) for name in PACKAGES},
        platform=platform.platform(),
        cpu=cpu_model(),
        num_cores=usable_cpus(),
        num_threads=torch.get_num_threads(),
        gpus=gpus,
    )


def cpu_model() -> str:
    """Return the processor's model name, as far as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
