"""The two-dimensional selective scan of VMamba (SS2D, arXiv 2401.10166, section 4.2) on channels-last maps.

Four directions read the same map: 0 row by row, 1 column by column, 2 and 3 the same in reverse; their outputs are
added. The scan visits positions through an index, so the map is never copied, neither for scanning nor for merging. In
the kind ``2d`` each direction scans along rows and down columns (2DMamba, arXiv 2412.00678).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.errors import SpecError, nearest
from eyeswap.ops.projected_scan import check_shapes, choose_projected_path, negative_a, scan_projected
from eyeswap.ops.selective_scan import selective_scan_reference

KINDS = ("1d", "2d")


def cross_scan_order(height: int, width: int) -> Tensor:
    """Return ``[4, H*W]`` int64: at step ``t`` direction ``k`` visits position ``order[k, t]``."""
    if torch.compiler.is_compiling():
        rows = torch.arange(height * width)
        columns = rows.view(height, width).t().flatten()
        return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])  # [4, L]
    return torch.from_numpy(_remembered_order(height, width))


@functools.lru_cache(maxsize=64)
def _remembered_order(height: int, width: int) -> npt.NDArray[np.int64]:
    """Return the same as an array; a cached tensor could belong to a mode (inference, fake) that it was made in."""
    rows = np.arange(height * width)
    columns = rows.reshape(height, width).T.flatten()
    return np.stack([rows, columns, rows[::-1], columns[::-1]])  # [4, L]


def cross_scan(x: Tensor) -> Tensor:
    """Return the four directions ``[B, 4, D, L]`` of a map ``[B, H, W, D]``, each in scan order."""
    order = cross_scan_order(x.shape[1], x.shape[2]).to(x.device)
    return x.flatten(1, 2)[:, order].transpose(2, 3)  # [B, L, D] -> [B, 4, L, D] -> [B, 4, D, L]


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Undo `cross_scan` on ``[B, 4, D, L]`` and add the four directions: ``[B, H, W, D]``."""
    order = cross_scan_order(height, width).to(y.device)
    step_of = order.argsort(1)  # step_of[k, p]: the step at which direction k visits position p
    rows = y.transpose(2, 3)  # [B, 4, L, D]
    merged = torch.stack([rows[:, k, step_of[k]] for k in range(4)]).sum(0)  # [B, L, D]
    return merged.view(-1, height, width, merged.shape[2])


def ss2d(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    kind: str = "1d",
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
        kind: ``1d``: one sequence per direction; ``2d``: along rows and down columns, see `projected_scan.scan_grid`.
        path: as in `selective_scan`, or ``c``: the C core, for float32 on a CPU without gradients. ``auto`` uses it
            where possible, and logs once if it is missing.

    Returns:
        ``[B, H, W, D]``, in the dtype of ``x``; the scan runs in float64 for float64 input, else in float32.

    Raises:
        ShapeError: if the shapes of ``x`` and the weights do not fit.
        SpecError: if ``kind`` or ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    if kind not in KINDS:
        raise SpecError(f"ss2d: unknown kind {kind!r} of scan. {nearest(kind, KINDS)}")
    K, D, R = dt_projs_weight.shape
    S = A_logs.shape[1]
    shapes = {
        "x": (x, (*x.shape[:3], D)),
        "x_proj_weight": (x_proj_weight, (4, R + 2 * S, D)),
        "dt_projs_weight": (dt_projs_weight, (4, D, R)),
        "dt_projs_bias": (dt_projs_bias, (4, D)),
        "A_logs": (A_logs, (4 * D, S)),
        "Ds": (Ds, (4 * D,)),
    }
    check_shapes("ss2d", shapes)
    path = choose_projected_path("ss2d", path, x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    height, width = x.shape[1:3]
    rows = x.flatten(1, 2)  # [B, L, D]
    projected = F.linear(rows, x_proj_weight.flatten(0, 1)).unflatten(2, (K, -1))  # [B, L, K, R+2S]
    a = negative_a(A_logs, x).unflatten(0, (K, D)).transpose(1, 2)  # [K, S, D]
    skip = Ds.unflatten(0, (K, D))
    if path == "triton" and kind == "1d":
        from eyeswap.ops._triton_ss2d import ss2d_triton

        weight = dt_projs_weight.to(projected.dtype)
        bias, skip = dt_projs_bias.to(a.dtype), skip.to(a.dtype).sum(0)
        y: Tensor = ss2d_triton(rows, projected, weight, bias, a, skip, height, width)
        return y.view(x.shape)
    order = cross_scan_order(height, width).to(x.device)
    columns = (width, height, width, height) if kind == "2d" else None
    y = scan_projected(rows[:, None], projected, dt_projs_weight, dt_projs_bias, a, skip, order, path, columns)
    return y.view(x.shape).to(x.dtype)


def ss2d_reference(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> Tensor:
    """Compute `ss2d`, with the same shapes, the way the paper does: four copies, projections, one scan, merge."""
    R, S = dt_projs_weight.shape[2], A_logs.shape[1]
    scans = cross_scan(x)  # [B, 4, D, L]
    projected = torch.einsum("bkdl,kcd->bkcl", scans, x_proj_weight)
    code, b, c = projected.split([R, S, S], dim=2)
    delta = torch.einsum("bkrl,kdr->bkdl", code, dt_projs_weight)
    y, _ = selective_scan_reference(
        scans.flatten(1, 2), delta.flatten(1, 2), -torch.exp(A_logs), b, c, Ds, dt_projs_bias.flatten(), True
    )
    return cross_merge(y.unflatten(1, (4, -1)), x.shape[1], x.shape[2])
