"""The plain-C core of SS2D: compiled once where a C compiler is found, never required.

``_ss2d.c`` needs no header of torch and compiles in half a second. The library lies in the user's cache under a
name that tells source, compiler and processor, so that a shared home folder serves several machines.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.errors import EnvironmentProblem
from eyeswap.files import atomic_path
from eyeswap.ops._constant import constant
from eyeswap.ops._threads import share_out

SOURCE = Path(__file__).with_name("_ss2d.c")
FLAGS = ("-O3", "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native", "-fPIC", "-shared")
COMPILE_LIMIT_S = 60
LOG2_E = math.log2(math.e)


class _Scan(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "channels", "rank", "states")),
        *((name, ctypes.c_void_p) for name in ("x", "projected", "weight", "bias", "a", "skip", "order", "y")),
    )


@functools.cache
def library() -> ctypes.CDLL | str:
    """Return the compiled core, or in one line why there is none; ``EYESWAP_C=0`` forgoes it."""
    if os.environ.get("EYESWAP_C") == "0":
        return "EYESWAP_C is 0"
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        return f"no C compiler ({compiler[0]}) here"
    try:
        path = _cached_path(compiler)
        if not path.is_file():
            with atomic_path(path) as temporary:
                _run([*compiler, *FLAGS, "-o", str(temporary), str(SOURCE)])
        loaded = ctypes.CDLL(str(path))
        loaded.ss2d.argtypes = [ctypes.c_void_p, *(ctypes.c_int64,) * 3]
        loaded.ss2d.restype = None
        loaded.lanes.restype = ctypes.c_int64
    except (OSError, subprocess.SubprocessError, AttributeError) as problem:
        told = getattr(problem, "stderr", None) or str(problem)
        return f"{compiler[0]} made no library: {told.strip().splitlines()[0] if told.strip() else 'no message'}"
    return loaded


@constant
def why_missing() -> str:
    """Return in one line why there is no C core on this machine; empty if there is one."""
    found = library()
    return found if isinstance(found, str) else ""


def _cached_path(compiler: list[str]) -> Path:
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(" ".join([*compiler, *FLAGS, platform.machine(), _processor()]).encode())
    key.update(_run([*compiler, "--version"]).encode())
    base = Path(os.environ.get("EYESWAP_CACHE") or Path.home() / ".cache" / "eyeswap")
    return base / "kernels" / f"ss2d-{key.hexdigest()[:24]}.so"


def _processor() -> str:
    """Return what the processor can do: code for another one may not run here."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8", errors="replace").splitlines() if information.is_file() else []
    features = (line for line in lines if line.lower().startswith(("flags", "features", "model name")))
    return "\n".join(sorted(set(features))) or platform.processor()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMPILE_LIMIT_S)
    return done.stdout


@torch.library.custom_op("eyeswap::ss2d_c", mutates_args=())
def scan_c(
    x: Tensor, projected: Tensor, dt_projs_weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, order: Tensor
) -> Tensor:
    """Scan a map in four directions, without gradient.

    Args:
        x: ``[B, L, D]`` float32, like all but ``order``.
        projected: ``[B, L, 4, R + 2*S]``, step-size code, B and C of every position and direction.
        dt_projs_weight: ``[4, D, R]``.
        bias: ``[4, D]``.
        a: ``[4, S, D]``.
        skip: ``[D]``, summed over the directions.
        order: ``[4, L]`` int64.

    Returns:
        ``[B, L, D]``.
    """
    core = library()
    if isinstance(core, str):
        raise EnvironmentProblem(f"ss2d: path c cannot run: {core}")
    lanes = core.lanes()
    B, L, channels = x.shape
    x, dt_projs_weight, bias, a, skip = (
        F.pad(tensor, (*(0, 0) * (axes - 1), 0, -channels % lanes)) if channels % lanes else tensor
        for tensor, axes in ((x, 1), (dt_projs_weight, 2), (bias, 1), (a, 1), (skip, 1))
    )
    D, R = dt_projs_weight.shape[1:]
    width = next(width for width in (3, 4, 2, 1) if D // lanes % width == 0)  # three vectors use the registers best
    blocks = dt_projs_weight.reshape(4, -1, width * lanes, R).transpose(2, 3)  # [4, blocks, R, block]
    weight = torch.mul(blocks, LOG2_E, out=torch.empty(blocks.shape))
    inputs = [tensor.contiguous() for tensor in (x, projected, weight, bias * LOG2_E, a, skip, order)]
    y = torch.empty_like(inputs[0])
    scan = _Scan(L, D, R, a.shape[1], *(tensor.data_ptr() for tensor in (*inputs, y)))
    address = ctypes.addressof(scan)
    share_out(lambda first, stop: core.ss2d(address, width, first, stop), B * (D // (width * lanes)))
    return y[..., :channels].contiguous() if channels != D else y


@scan_c.register_fake
def _(
    x: Tensor, projected: Tensor, dt_projs_weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, order: Tensor
) -> Tensor:
    return x.new_empty(x.shape)
