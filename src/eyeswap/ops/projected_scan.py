"""Selective scans whose step sizes, B and C are projections of the scanned rows, as in vision networks.

The projections act on single positions, so they are computed once for the rows in memory order, and a scan visits
positions through an index: nothing is copied, flipped or merged. `scan_projected` handles any number of directions.
SS2D builds on it (`eyeswap.ops.ss2d`), as do the scans here: both ways along a sequence (Vim, arXiv 2401.09417), and
the states of a single scan (Spatial-Mamba, arXiv 2410.15091). With a C compiler, a plain-C core computes the float32
forward pass on a CPU, including the step sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.errors import EnvironmentProblem, ShapeError
from eyeswap.ops import _c_scan
from eyeswap.ops.selective_scan import choose_path, log_once, scan_rows

CHUNK_BYTES = 8_000_000  # of step sizes; images are scanned in chunks that fit into the processor's cache


def scan_projected(
    u: Tensor, projected: Tensor, weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, order: Tensor, path: str,
    columns: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Scan rows in K directions and add the results.

    Args:
        u: ``[B, G, L, D]``; ``G`` is 1 if all directions read the same rows, else K.
        projected: ``[B, L, K, R + 2*S]``: step-size code, B and C of every row and direction.
        weight: ``[K, D, R]``, maps the code to step sizes.
        bias: ``[K, D]``, added to the step sizes before softplus.
        a: ``[K, S, D]``, negative.
        skip: ``[K, D]``.
        order: ``[K, L]`` int64; direction ``k`` visits row ``order[k, t]`` at step ``t``.
        path: as returned by `choose_projected_path`.
        columns: the row lengths of K two-dimensional scans, see `scan_grid`; None for one-dimensional scans.

    Returns:
        ``[B, L, D]``, in float64 if ``u`` is, else in float32.
    """
    K, S = a.shape[:2]
    dtype = torch.promote_types(u.dtype, torch.float32)
    u, bias, a, skip = (tensor.to(dtype) for tensor in (u, bias, a, skip))
    if path == "c":
        skips = skip if u.shape[1] == K else skip.sum(0, keepdim=True)
        lengths = None if columns is None else torch.tensor(columns)
        y: Tensor = _c_scan.scan_c(u, projected.to(dtype), weight.to(dtype), bias, a, skips, order, lengths)
        return y
    code, b, c = projected.transpose(1, 2).split([weight.shape[2], S, S], dim=3)  # [B, K, L, ...]
    images = max(1, CHUNK_BYTES // (K * u[:1, :1].numel() * u.element_size() or 1))  # of one chunk
    chunks = []
    for u_part, code_part, b_part, c_part in zip(*(t.split(images) for t in (u, code, b, c)), strict=True):
        delta = torch.matmul(code_part, weight.transpose(1, 2)).to(dtype)  # [B, K, L, D]
        b_part, c_part = b_part.to(dtype), c_part.to(dtype)
        if columns is not None:
            y = scan_grid(u_part, delta, a, b_part, c_part, skip, bias, order, columns)
        else:
            y, _ = scan_rows(u_part, delta, a, b_part, c_part, skip, bias, order, True, path)
        chunks.append(y[:, 0] if y.shape[1] == 1 else y.sum(1))  # [B, L, D]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def scan_grid(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, bias: Tensor, order: Tensor,
    columns: Sequence[int],
) -> Tensor:  # fmt: skip
    """Scan K grids over channels-last rows and add the results: the two-dimensional scan of 2DMamba.

    A direction's sequence is read as a grid, row by row. With the decay ``A = exp(delta a)`` of each position, a scan
    along every row, starting from zero, is scanned again down every column with the same decays (arXiv 2412.00678):

        r[i, j] = A[i, j] r[i, j-1] + delta B u        h[i, j] = A[i, j] h[i-1, j] + r[i, j]        y = C h + D u

    All rows advance together, then all columns: H + W steps per direction instead of H W. A scan that adds both
    neighbours instead, ``h = A (left + above) + drive``, is a different one: it counts every path through the grid and
    grows without bound.

    Args:
        u: ``[B, 1, L, C]``, read by all directions.
        delta: ``[B, K, L, C]``, step sizes before bias and softplus.
        a: ``[K, S, C]``.
        b: ``[B, K, L, S]``.
        c: ``[B, K, L, S]``.
        skip: ``[K, C]``.
        bias: ``[K, C]``.
        order: ``[K, L]`` int64; direction ``k`` visits row ``order[k, t]`` at step ``t``, each row once.
        columns: row lengths of the K grids.

    Returns:
        ``[B, 1, L, C]``.
    """
    step = F.softplus(delta + bias[:, None])  # [B, K, L, C]
    total = u[:, 0] * skip.sum(0)  # [B, L, C]
    for k, width in enumerate(columns):
        visits = order[k]
        size, drive_b, read_c = step[:, k, visits], b[:, k, visits], c[:, k, visits]  # in scan order
        decay = torch.exp(size[:, :, None] * a[k]).unflatten(1, (-1, width))  # [B, h, w, S, C]
        drive = ((size * u[:, 0, visits])[:, :, None] * drive_b[..., None]).unflatten(1, (-1, width))
        state = _recur(decay, _recur(decay, drive, axis=2), axis=1).flatten(1, 2)  # [B, L, S, C]
        y = (state * read_c[..., None]).sum(2)  # [B, L, C]
        total = total.index_add(1, visits, y)
    return total[:, None]


def _recur(decay: Tensor, drive: Tensor, axis: int) -> Tensor:
    """Return ``h[t] = decay[t] h[t-1] + drive[t]`` along an axis, starting from zero."""
    states: list[Tensor] = []
    for a, x in zip(decay.unbind(axis), drive.unbind(axis), strict=True):
        states.append(x if not states else a * states[-1] + x)
    return torch.stack(states, axis)


def bidirectional_scan(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    *,
    path: str = "auto",
) -> Tensor:
    """Scan a sequence forwards and backwards and add the results.

    Args:
        x: ``[B, 2, L, D]``, the inputs of the forward and of the backward scan, both in sequence order.
        x_proj_weight: ``[2, R + 2*S, D]``; its outputs are the step-size code (R), B (S) and C (S).
        dt_proj_weight: ``[2, D, R]``.
        dt_proj_bias: ``[2, D]``.
        A_log: ``[2, D, S]``; A is ``-exp(A_log)``.
        D: ``[2, D]``, skip connection.
        path: as in `eyeswap.ops.ss2d.ss2d`.

    Returns:
        ``[B, L, D]``, in sequence order and in the dtype of ``x``; the scan runs in float64 for float64 input, else in
        float32.

    Raises:
        ShapeError: if the shapes of ``x`` and the weights do not fit.
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    K, width, R = dt_proj_weight.shape
    S = A_log.shape[-1]
    weights = {
        "x": (x, (*x.shape[:1], 2, *x.shape[2:3], width)),
        "x_proj_weight": (x_proj_weight, (2, R + 2 * S, width)),
        "dt_proj_weight": (dt_proj_weight, (2, width, R)),
        "dt_proj_bias": (dt_proj_bias, (2, width)),
        "A_log": (A_log, (2, width, S)),
        "D": (D, (2, width)),
    }
    check_shapes("bidirectional_scan", weights)
    path = choose_projected_path("bidirectional_scan", path, x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    projected = torch.stack([F.linear(x[:, k], x_proj_weight[k]) for k in range(K)], dim=2)  # [B, L, K, R+2S]
    forwards = torch.arange(x.shape[2], device=x.device)
    order = torch.stack([forwards, forwards.flip(0)])
    a = negative_a(A_log, x).transpose(1, 2)
    return scan_projected(x, projected, dt_proj_weight, dt_proj_bias, a, D, order, path).to(x.dtype)


def scan_states(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    *,
    path: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Scan a sequence with one state per channel, and return the states themselves instead of ``C h``.

    Args:
        x: ``[B, L, D]``.
        x_proj_weight: ``[R + 2, D]``; its outputs are the step-size code (R), B and C.
        dt_proj_weight: ``[D, R]``.
        dt_proj_bias: ``[D]``.
        A_log: ``[D, 1]``; A is ``-exp(A_log)``.
        path: as in `eyeswap.ops.ss2d.ss2d`.

    Returns:
        The states ``[B, L, D]`` and ``C [B, L, 1]``, in float64 for float64 input, else in float32.

    Raises:
        ShapeError: if the shapes of ``x`` and the weights do not fit.
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    width, R = dt_proj_weight.shape
    weights = {
        "x": (x, (*x.shape[:2], width)),
        "x_proj_weight": (x_proj_weight, (R + 2, width)),
        "dt_proj_weight": (dt_proj_weight, (width, R)),
        "dt_proj_bias": (dt_proj_bias, (width,)),
        "A_log": (A_log, (width, 1)),
    }
    check_shapes("scan_states", weights)
    path = choose_projected_path("scan_states", path, x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log)
    code_and_b, c = F.linear(x, x_proj_weight).split([R + 1, 1], dim=2)
    projected = torch.cat([code_and_b, torch.ones_like(c)], dim=2)  # with C = 1 the scan's output is its state
    states = scan_projected(
        x[:, None], projected[:, :, None], dt_proj_weight[None], dt_proj_bias[None], negative_a(A_log, x).t()[None],
        x.new_zeros(1, width), torch.arange(x.shape[1], device=x.device)[None], path,
    )  # fmt: skip
    return states, c.to(states.dtype)


def negative_a(A_log: Tensor, like: Tensor) -> Tensor:
    """Return ``-exp(A_log)`` in the shape of ``A_log [..., S]``, in the dtype in which a scan of ``like`` runs."""
    return -torch.exp(A_log.to(torch.promote_types(like.dtype, torch.float32)))


def check_shapes(name: str, tensors: Mapping[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Check the shapes of a scan's inputs.

    Raises:
        ShapeError: naming the first wrong one.
    """
    for argument, (tensor, shape) in tensors.items():
        if tuple(tensor.shape) != shape:
            raise ShapeError(f"{name}: {argument} is {tuple(tensor.shape)}, expected {shape}")


def choose_projected_path(name: str, path: str, *tensors: Tensor) -> str:
    """Resolve ``path`` for these inputs; ``auto`` is ``c`` if the C core can take them.

    Raises:
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    if path not in ("auto", "c"):
        return choose_path(path, tensors[0])
    obstacle = _obstacle(tensors)
    if obstacle is None:
        log_once("selective scan on cpu: c path for projected scans")
        return "c"
    if path == "c":
        raise EnvironmentProblem(f"{name}: path c cannot run: {obstacle}; use path auto")
    return choose_path("auto", tensors[0])


def _obstacle(tensors: Sequence[Tensor]) -> str | None:
    """Return why the C core cannot take these inputs, or None if it can."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return f"it needs CPU tensors, got {tensors[0].device}"
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "it computes in float32, and the input is float64"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "it has no backward"
    reason = _c_scan.why_missing()
    if reason:
        log_once(f"selective scan on cpu: no C core ({reason})")
    return reason or None
