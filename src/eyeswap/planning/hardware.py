"""GPUs as an estimate needs them: peak dense bf16 throughput and memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eyeswap.errors import SpecError, nearest

TERA = 1e12


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: name on the command line.
        peak_tflops: peak dense bf16 throughput from the data sheet, TFLOP/s.
        memory_gib: memory available to a program, GiB.
    """

    name: str
    peak_tflops: float
    memory_gib: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 989.0, 139.0),
        Gpu("h100", 989.0, 79.0),
        Gpu("h100-nvl", 835.0, 93.0),
        Gpu("h100-pcie", 756.0, 79.0),
        Gpu("a100", 312.0, 79.0),
        Gpu("a100-40gb", 312.0, 39.0),
        Gpu("b200", 2250.0, 178.0),
        Gpu("gb200", 2500.0, 184.0),
        Gpu("l40s", 362.0, 44.0),
        Gpu("rtx4090", 165.0, 23.5),
    )
}


def find_gpu(text: str) -> Gpu:
    """Return a GPU by name, or one described as ``TFLOP/s:GiB``, such as ``71:24``.

    Raises:
        SpecError: if the text is neither.
    """
    if text.lower() in GPUS:
        return GPUS[text.lower()]
    described = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", text)
    if described is None or not float(described[1]) or not float(described[2]):
        raise SpecError(
            f'gpu "{text}" is unknown; write its peak and memory as TFLOP/s:GiB, such as 71:24. '
            f"{nearest(text.lower(), GPUS)}"
        )
    return Gpu(text, float(described[1]), float(described[2]))


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's bf16 peak in FLOP/s by the name that its driver reports; None if it is not listed here.

    Example:
        >>> peak_flops("NVIDIA H100 80GB HBM3")
        989000000000000.0
    """
    plain = _normalized(device_name)
    matches = [gpu for gpu in GPUS.values() if _normalized(gpu.name) in plain]
    if not matches:
        return None
    return max(matches, key=lambda gpu: len(gpu.name)).peak_tflops * TERA


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
