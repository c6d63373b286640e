"""The plain-C core of the scans: compiled once if there is a C compiler, never required.

``_scan.c`` needs no torch headers and compiles in a second or two. The library is kept in the user's cache under a name
that depends on source, compiler and processor, so that a shared home folder serves several machines. Its digest is kept
beside it, because loading a truncated library may crash the process instead of raising an error.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.errors import EnvironmentProblem
from eyeswap.files import atomic_path, sha256_of, write_text
from eyeswap.ops._constant import constant
from eyeswap.ops._threads import share_out

SOURCE = Path(__file__).with_name("_scan.c")
FLAGS = ("-O3", "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native", "-fPIC", "-shared")
COMPILE_LIMIT_S = 60
LOG2_E = math.log2(math.e)


class _Scan(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "channels", "rank", "states", "directions", "groups", "width")),
        *((name, ctypes.c_void_p) for name in ("x", "projected", "weight", "bias", "a", "skip", "order", "columns")),
        ("y", ctypes.c_void_p),
    )


class _Mix(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("height", "width", "channels", "taps")),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "offsets", "y")),
    )


class _Shared(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = (
        ("walk", ctypes.c_void_p),
        ("job", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("tasks", "floats")),
        ("memory", ctypes.c_void_p),
    )


@functools.cache
def library() -> ctypes.CDLL | str:
    """Return the compiled core, or one line that says why there is none; ``EYESWAP_C=0`` disables it."""
    if os.environ.get("EYESWAP_C") == "0":
        return "EYESWAP_C is 0"
    try:
        return _loaded()
    except FileNotFoundError as problem:
        return f"no C compiler ({problem.filename}) here"
    except Exception as problem:  # anything can go wrong on a machine, and only speed depends on this core
        message = str(getattr(problem, "stderr", None) or problem).strip() or type(problem).__name__
        return f"the C core could not be compiled: {message.splitlines()[0]}"


@constant
def why_missing() -> str:
    """Return one line that says why there is no C core on this machine; empty if there is one."""
    core = library()
    return core if isinstance(core, str) else ""


def _loaded() -> ctypes.CDLL:
    """Load the core, compiling it first unless the cache has an intact copy."""
    compiler = shlex.split(os.environ.get("CC", "").strip() or "cc")
    path = _cached_path(compiler)
    digest = path.with_suffix(".sha256")
    if not (path.is_file() and digest.is_file() and digest.read_text(encoding="utf-8") == sha256_of(path)):
        with atomic_path(path) as temporary:
            _run([*compiler, *FLAGS, "-o", str(temporary), str(SOURCE)])
            _open(temporary)  # keep only what can be loaded
        write_text(digest, sha256_of(path))
    return _open(path)


def _open(path: Path) -> ctypes.CDLL:
    core = ctypes.CDLL(str(path))
    for walk in (core.scan_rows, core.mix_neighbours):
        walk.argtypes = [ctypes.c_void_p, *(ctypes.c_int64,) * 2, ctypes.c_void_p]
        walk.restype = None
    core.run_on_torchs_threads.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    core.run_on_torchs_threads.restype = core.lanes.restype = ctypes.c_int64
    return core


def _cached_path(compiler: list[str]) -> Path:
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(" ".join([*compiler, *FLAGS, platform.machine(), _processor()]).encode())
    key.update(_run([*compiler, "--version"]).encode())
    base = Path(os.environ.get("EYESWAP_CACHE") or Path.home() / ".cache" / "eyeswap")
    return base / "kernels" / f"scan-{key.hexdigest()[:24]}.so"


def _processor() -> str:
    """Return the processor's features; code compiled for another processor may not run here."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8", errors="replace").splitlines() if information.is_file() else []
    features = (line for line in lines if line.lower().startswith(("flags", "features", "model name")))
    return "\n".join(sorted(set(features))) or platform.processor()


def _run(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMPILE_LIMIT_S)
    return finished.stdout


def _run_all(core: ctypes.CDLL, walk: Any, job: ctypes.Structure, tasks: int, floats: int) -> None:
    """Run all tasks of a job, each thread with its own memory of so many floats."""
    address = ctypes.addressof(job)

    def run(first: int, stop: int) -> None:
        memory = torch.empty(floats)
        walk(address, first, stop, memory.data_ptr())

    if not _run_on_torchs_threads(core, walk, address, tasks, floats):
        share_out(run, tasks)


def _run_on_torchs_threads(core: ctypes.CDLL, walk: Any, address: int, tasks: int, floats: int) -> bool:
    """Return whether that was possible: torch has several, and its OpenMP is GNU's; otherwise nothing was done.

    A forked child of a process that has used them waits for ever, here as in torch's own operations, unless it calls
    ``torch.set_num_threads(1)`` first, as workers of a DataLoader do.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads < 2:
        return False
    memory = torch.empty(threads, floats)
    shared = _Shared(ctypes.cast(walk, ctypes.c_void_p), address, tasks, floats, memory.data_ptr())
    return bool(core.run_on_torchs_threads(ctypes.addressof(shared), threads))


@torch.library.custom_op("eyeswap::scan_c", mutates_args=())
def scan_c(
    x: Tensor, projected: Tensor, weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, order: Tensor,
    columns: Tensor | None,
) -> Tensor:  # fmt: skip
    """Scan rows in several directions and add the results, without gradients.

    Args:
        x: ``[B, G, L, D]``; ``G`` is 1 if all directions read the same rows, else K. Float32, like all but the last
            two.
        projected: ``[B, L, K, R + 2*S]``, step-size code, B and C of every position and direction.
        weight: ``[K, D, R]``, maps the code to step sizes.
        bias: ``[K, D]``.
        a: ``[K, S, D]``.
        skip: ``[G, D]``; already summed over the directions if ``G`` is 1.
        order: ``[K, L]`` int64.
        columns: ``[K]`` int64, the row lengths of two-dimensional scans; None for one-dimensional ones.

    Returns:
        ``[B, L, D]``.
    """
    core = library()
    if isinstance(core, str):
        raise EnvironmentProblem(f"path c cannot run: {core}")
    lanes = core.lanes()
    batch, groups, length, channels = x.shape
    x, weight, bias, a, skip = (
        F.pad(tensor, (*(0, 0) * (axes - 1), 0, -channels % lanes)) if channels % lanes else tensor
        for tensor, axes in ((x, 1), (weight, 2), (bias, 1), (a, 1), (skip, 1))
    )
    K, D, R = weight.shape
    widths = (3, 4, 2, 1) if columns is None else (1,)  # vectors per block; three use the registers best
    width = next(width for width in widths if D // lanes % width == 0)
    block, states = width * lanes, a.shape[1]
    blocks = weight.reshape(K, -1, block, R).transpose(2, 3)  # [K, blocks, R, block]
    scaled = torch.mul(blocks, LOG2_E, out=torch.empty(blocks.shape))
    inputs = [tensor.contiguous() for tensor in (x, projected, scaled, bias * LOG2_E, a, skip, order)]
    columns = None if columns is None else columns.contiguous()
    y = x.new_empty(batch, length, D)
    pointers = [*(tensor.data_ptr() for tensor in inputs), None if columns is None else columns.data_ptr()]
    scan = _Scan(length, D, R, states, K, groups, width, *pointers, y.data_ptr())
    rows = 1 + (0 if columns is None else int(columns.max()))
    _run_all(core, core.scan_rows, scan, batch * (D // block), rows * states * block)
    return y[..., :channels].contiguous() if channels != D else y


@scan_c.register_fake
def _(
    x: Tensor, projected: Tensor, weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, order: Tensor,
    columns: Tensor | None,
) -> Tensor:  # fmt: skip
    return x.new_empty(x.shape[0], *x.shape[2:])


@torch.library.custom_op("eyeswap::mix_neighbours_c", mutates_args=())
def mix_neighbours_c(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Sum weighted neighbours on maps with replicated borders, channel by channel, without gradients.

    Args:
        x: ``[B, H, W, D]`` float32.
        weight: ``[taps, D]`` float32.
        offsets: ``[taps, 2]`` int64, rows and columns from a position to each neighbour.

    Returns:
        ``[B, H, W, D]``.
    """
    core = library()
    if isinstance(core, str):
        raise EnvironmentProblem(f"path c cannot run: {core}")
    batch, height, width, channels = x.shape
    missing = -channels % core.lanes()
    x, weight = ((F.pad(t, (0, missing)) if missing else t).contiguous() for t in (x, weight))
    offsets, y = offsets.contiguous(), torch.empty_like(x)
    pointers = (tensor.data_ptr() for tensor in (x, weight, offsets, y))
    mix = _Mix(height, width, x.shape[3], len(offsets), *pointers)
    _run_all(core, core.mix_neighbours, mix, batch * height, 0)
    return y[..., :channels].contiguous() if missing else y


@mix_neighbours_c.register_fake
def _(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
