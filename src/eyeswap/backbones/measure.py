"""Measure the speed and peak memory of a backbone's forward passes on this machine."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

BATCHES = (1, 8)
BUDGET_S = 2.0  # of repeated passes, per batch size
LONGEST_PASS_S = 20.0  # batches whose pass would take longer are skipped
MOST_PASSES = 20


@dataclass(frozen=True)
class Speed:
    """Speed and memory of forward passes.

    Attributes:
        images_per_s: images per second by batch size, from the fastest pass after a warm-up.
        peak_bytes: peak memory during the passes of the largest batch; None if it cannot be measured.
        peak_of: what ``peak_bytes`` covers, and the batch size.
        where: GPU, or number of CPU threads.
    """

    images_per_s: dict[int, float]
    peak_bytes: int | None
    peak_of: str
    where: str


def measure_speed(network: nn.Module, image: Tensor) -> Speed:
    """Time forward passes in float32.

    Args:
        network: takes ``[B, 3, H, W]``.
        image: ``[1, 3, H, W]``, on the device to be measured.
    """
    on_gpu = image.device.type == "cuda"
    where = torch.cuda.get_device_name(image.device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    rates: dict[int, float] = {}
    for batch in BATCHES:
        if rates and batch / min(rates.values()) > LONGEST_PASS_S:
            break
        reset_peak(on_gpu)
        rates[batch] = batch / _fastest_pass_s(network, image.expand(batch, -1, -1, -1).contiguous())
    peak_of = "on the GPU" if on_gpu else "the whole process"
    return Speed(rates, peak_bytes(on_gpu), f"{peak_of}, batch {max(rates)}", where)


def _fastest_pass_s(network: nn.Module, images: Tensor) -> float:
    times: list[float] = []
    with torch.no_grad():
        network(images)  # the first pass may compile and allocate
        while not times or (sum(times) < BUDGET_S and len(times) < MOST_PASSES):
            start = time.perf_counter()
            network(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return min(times)


def reset_peak(on_gpu: bool) -> None:
    """Reset the memory peak."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # otherwise the peak is that of the process's lifetime
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(on_gpu: bool) -> int | None:
    """Return peak memory since `reset_peak`, of the GPU or of the whole process; None if unknown."""
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else None
