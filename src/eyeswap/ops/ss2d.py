"""The two-dimensional selective scan of VMamba (SS2D, arXiv 2401.10166, section 4.2) on channels-last maps.

Four directions read the same map: 0 row by row, 1 column by column, 2 and 3 the same backwards; their
outputs are added. The projections act on single positions, so they are computed once on the map as it lies,
and the scan visits positions through an index: the map is never copied, neither for reading nor for merging.
Where a C compiler is found, a plain-C core that also fuses the step sizes does the float32 forward on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.errors import EnvironmentProblem, ShapeError
from eyeswap.ops import _c_ss2d
from eyeswap.ops.selective_scan import choose_path, log_once, scan_rows, selective_scan_reference

CHUNK_BYTES = 8_000_000  # of step sizes: images are scanned in chunks that stay in the processor's cache


def cross_scan_order(height: int, width: int) -> Tensor:
    """Return ``[4, H*W]`` int64: at step ``t`` direction ``k`` visits position ``order[k, t]``."""
    if torch.compiler.is_compiling():
        rows = torch.arange(height * width)
        columns = rows.view(height, width).t().flatten()
        return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])  # [4, L]
    return torch.from_numpy(_remembered_order(height, width))


@functools.lru_cache(maxsize=64)
def _remembered_order(height: int, width: int) -> npt.NDArray[np.int64]:
    """Return the same as an array: a tensor that is kept would belong to whatever mode of torch it was made under."""
    rows = np.arange(height * width)
    columns = rows.reshape(height, width).T.flatten()
    return np.stack([rows, columns, rows[::-1], columns[::-1]])  # [4, L]


def cross_scan(x: Tensor) -> Tensor:
    """Return the four scans ``[B, 4, D, L]`` of a map ``[B, H, W, D]``."""
    order = cross_scan_order(x.shape[1], x.shape[2]).to(x.device)
    return x.flatten(1, 2)[:, order].transpose(2, 3)  # [B, L, D] -> [B, 4, L, D] -> [B, 4, D, L]


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Add up four scans ``[B, 4, D, L]``, each value at the position it was read from: ``[B, H, W, D]``."""
    order = cross_scan_order(height, width).to(y.device)
    back = order.argsort(1)  # back[k, p]: the step at which direction k visits position p
    rows = y.transpose(2, 3)  # [B, 4, L, D]
    merged = torch.stack([rows[:, k, back[k]] for k in range(4)]).sum(0)  # [B, L, D]
    return merged.view(-1, height, width, merged.shape[2])


def ss2d(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    path: str = "auto",
) -> Tensor:
    """Scan a map in four directions and add the results.

    Args:
        x: ``[B, H, W, D]``, channels last.
        x_proj_weight: ``[4, R + 2*S, D]``; its outputs are the step-size code (R), B (S) and C (S).
        dt_projs_weight: ``[4, D, R]``.
        dt_projs_bias: ``[4, D]``.
        A_logs: ``[4*D, S]``, direction-major; A is ``-exp(A_logs)``.
        Ds: ``[4*D]``.
        path: as in `selective_scan`, or ``c``: the C core, float32 on a CPU without gradients. ``auto`` takes it
            where it can, and says once in the log if there is none.

    Returns:
        ``[B, H, W, D]``, in the dtype of ``x``; the scan runs in float64 for float64 input, else in float32.

    Raises:
        ShapeError: if the weights do not fit together or to ``x``.
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    _check_shapes(x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    path = _choose_path(path, x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    K, D, R = dt_projs_weight.shape
    S = A_logs.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = x.flatten(1, 2)  # [B, L, D]
    projected = F.linear(rows, x_proj_weight.flatten(0, 1)).unflatten(2, (K, -1))  # [B, L, K, R+2S]
    a = -torch.exp(A_logs.to(dtype)).unflatten(0, (K, D)).transpose(1, 2)  # [K, S, D]
    skip, bias = Ds.to(dtype).unflatten(0, (K, D)), dt_projs_bias.to(dtype)
    if path == "triton":
        from eyeswap.ops._triton_ss2d import ss2d_triton

        weight = dt_projs_weight.to(projected.dtype)
        y: Tensor = ss2d_triton(rows, projected, weight, bias, a, skip.sum(0), x.shape[1], x.shape[2])
        return y.view(x.shape)
    order = cross_scan_order(x.shape[1], x.shape[2]).to(x.device)
    if path == "c":
        weight = dt_projs_weight.to(dtype)
        y = _c_ss2d.scan_c(rows.to(dtype), projected.to(dtype), weight, bias, a, skip.sum(0), order)
        return y.view(x.shape).to(x.dtype)
    code, b, c = projected.transpose(1, 2).split([R, S, S], dim=3)  # [B, K, L, ...]
    u = rows.unsqueeze(1).to(dtype)  # [B, 1, L, D]
    images = max(1, CHUNK_BYTES // (K * u[0].numel() * u.element_size()))  # of one chunk
    chunks = []
    for u_part, code_part, b_part, c_part in zip(*(t.split(images) for t in (u, code, b, c)), strict=True):
        delta = torch.matmul(code_part, dt_projs_weight.transpose(1, 2)).to(dtype)  # [B, K, L, D]
        b_part, c_part = b_part.to(dtype), c_part.to(dtype)
        y, _ = scan_rows(u_part, delta, a, b_part, c_part, skip, bias, order, True, path)  # [B, 1, L, D]
        chunks.append(y)
    y = chunks[0] if len(chunks) == 1 else torch.cat(chunks)
    return y.view(x.shape).to(x.dtype)


def _choose_path(path: str, *tensors: Tensor) -> str:
    """Return the path that ``path`` means for these inputs."""
    if path not in ("auto", "c"):
        return choose_path(path, tensors[0])
    obstacle = _obstacle(tensors)
    if obstacle is None:
        log_once("selective scan on cpu: c path for ss2d")
        return "c"
    if path == "c":
        raise EnvironmentProblem(f"ss2d: path c cannot run: {obstacle}; use path auto")
    return choose_path("auto", tensors[0])


def _obstacle(tensors: Sequence[Tensor]) -> str | None:
    """Return why the C core cannot take these inputs, or None."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return f"it needs CPU tensors, got {tensors[0].device}"
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "it computes in float32, and the input is float64"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "it has no backward"
    reason = _c_ss2d.why_missing()
    if reason:
        log_once(f"selective scan on cpu: no C core for ss2d ({reason})")
    return reason or None


def _check_shapes(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> None:
    D, R = dt_projs_weight.shape[1:]
    S = A_logs.shape[1]
    wanted = {
        "x": (x, (*x.shape[:3], D)),
        "x_proj_weight": (x_proj_weight, (4, R + 2 * S, D)),
        "dt_projs_weight": (dt_projs_weight, (4, D, R)),
        "dt_projs_bias": (dt_projs_bias, (4, D)),
        "A_logs": (A_logs, (4 * D, S)),
        "Ds": (Ds, (4 * D,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ShapeError(f"ss2d: {name} is {tuple(tensor.shape)}, expected {shape}")


def ss2d_reference(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> Tensor:
    """Do what `ss2d` does, shapes as there, the way the paper says: four copies, projections, one scan, merge."""
    R, S = dt_projs_weight.shape[2], A_logs.shape[1]
    scans = cross_scan(x)  # [B, 4, D, L]
    projected = torch.einsum("bkdl,kcd->bkcl", scans, x_proj_weight)
    code, b, c = projected.split([R, S, S], dim=2)
    delta = torch.einsum("bkrl,kdr->bkdl", code, dt_projs_weight)
    y, _ = selective_scan_reference(
        scans.flatten(1, 2), delta.flatten(1, 2), -torch.exp(A_logs), b, c, Ds, dt_projs_bias.flatten(), True
    )
    return cross_merge(y.unflatten(1, (4, -1)), x.shape[1], x.shape[2])
