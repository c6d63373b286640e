"""State fusion (Spatial-Mamba, arXiv 2410.15091): dilated depthwise convolutions that mix neighbouring states.

Borders are replicated. On a CPU the C core computes the float32 forward pass as a single sum over all taps; elsewhere
there is one padded convolution per dilation, which is differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.ops import _c_scan
from eyeswap.ops.projected_scan import choose_projected_path


def fuse_states(states: Tensor, kernels: Sequence[Tensor], dilations: Sequence[int], *, path: str = "auto") -> Tensor:
    """Mix each state with its neighbours on the map.

    Args:
        states: ``[B, h, w, D]``.
        kernels: ``[D, 1, 3, 3]`` each, cross-correlated.
        dilations: dilation of each kernel.
        path: ``auto``, ``c``, or any other path of a scan, all of which select the convolutions.

    Returns:
        ``[B, h, w, D]``.

    Raises:
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    if choose_projected_path("fuse_states", path, states, *kernels) == "c":
        taps = torch.cat([kernel.flatten(1).t() for kernel in kernels])  # [9 * kernels, D]
        steps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))  # row by row, like the kernels
        offsets = torch.cat([dilation * steps for dilation in dilations])
        mixed: Tensor = _c_scan.mix_neighbours_c(states, taps.to(states.dtype), offsets)
        return mixed
    cells = states.permute(0, 3, 1, 2)  # [B, D, h, w]
    fused = torch.zeros_like(cells)
    for kernel, dilation in zip(kernels, dilations, strict=True):
        padded = F.pad(cells, (dilation,) * 4, mode="replicate")
        fused = fused + F.conv2d(padded, kernel.to(cells.dtype), dilation=dilation, groups=cells.shape[1])
    return fused.permute(0, 2, 3, 1)
