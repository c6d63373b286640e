"""Multi-scale deformable attention: each query reads a few learned points of each feature map.

Pure PyTorch; the points are read bilinearly, and beyond a map there are zeros.
Source: Zhu et al., Deformable DETR (2021), equation 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Read weighted points from several feature maps.

    Args:
        value: ``[B, L, heads, d]``, the maps one after another, each row by row; ``L`` is the sum of ``h*w``.
        sizes: ``(h, w)`` of each map.
        locations: ``[B, Q, heads, maps, points, 2]``, x before y, 0 to 1 over a map's edges.
        weights: ``[B, Q, heads, maps, points]``.

    Returns:
        ``[B, Q, heads*d]``.
    """
    batch, queries, heads = locations.shape[:3]
    depth = value.shape[-1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [B*heads, Q, maps, points, 2], -1 to 1
    shares = weights.transpose(1, 2).flatten(0, 1)  # [B*heads, Q, maps, points]
    total = value.new_zeros(batch * heads, depth, queries)
    maps = torch.split(value, [rows * columns for rows, columns in sizes], dim=1)
    for level, ((rows, columns), cells) in enumerate(zip(sizes, maps, strict=True)):
        raster = cells.permute(0, 2, 3, 1).reshape(batch * heads, depth, rows, columns)
        sampled = F.grid_sample(raster, grids[:, :, level], align_corners=False)  # [B*heads, d, Q, points]
        total = total + (sampled * shares[:, None, :, level]).sum(-1)
    return total.reshape(batch, heads * depth, queries).transpose(1, 2)  # [B, Q, heads*d]


def reference_points(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return the centre of every cell of several maps, row by row.

    Args:
        sizes: ``(h, w)`` of each map.
        like: gives dtype and device.

    Returns:
        ``[L, 2]``, x before y, 0 to 1 over the map's edges.
    """
    centres = []
    for rows, columns in sizes:
        y = (torch.arange(rows, dtype=like.dtype, device=like.device) + 0.5) / rows
        x = (torch.arange(columns, dtype=like.dtype, device=like.device) + 0.5) / columns
        centres.append(torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1))
    return torch.cat(centres)  # [L, 2]
