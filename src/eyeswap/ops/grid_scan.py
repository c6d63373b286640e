"""The two-dimensional selective scan of 2DMamba (arXiv 2412.00678), in plain PyTorch on any device, differentiable.

A direction's sequence is read as a grid, row by row. With the decay ``A = exp(delta a)`` of each position, a scan along
every row, from a state of zero, is scanned again down every column by the same decays:

    r[i, j] = A[i, j] r[i, j-1] + delta B u        h[i, j] = A[i, j] h[i-1, j] + r[i, j]        y = C h + D u

All rows take a step together, then all columns: H + W steps a direction, not H W. The C core of ``_scan.c`` does the
float32 forward on a CPU. Descriptions that add both neighbours, ``h = A (left + above) + drive``, are another scan: it
counts each path again, and grows without bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_grid(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, bias: Tensor, order: Tensor,
    columns: Sequence[int],
) -> Tensor:  # fmt: skip
    """Scan K grids over channels-last rows and add the results up.

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
    """Return ``h[t] = decay[t] h[t-1] + drive[t]`` along an axis, from zero."""
    states: list[Tensor] = []
    for a, x in zip(decay.unbind(axis), drive.unbind(axis), strict=True):
        states.append(x if not states else a * states[-1] + x)
    return torch.stack(states, axis)
