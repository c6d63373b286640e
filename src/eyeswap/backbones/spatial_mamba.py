"""Spatial-Mamba: a single row-by-row scan whose states are mixed with those of neighbouring positions.

Keys and arithmetic are those of the official ``spatialmamba.py`` (EdwardChasel/Spatial-Mamba). Unusual: the scan has
one state per channel and returns its states; three dilated depthwise convolutions with replicated borders mix them
("state fusion") before C and D are applied; two further depthwise convolutions per block take the place of a position
embedding. The official code merges the three kernels into one of 11 x 11 in the first eval-mode forward pass and keeps
using it even if other weights are loaded later; here nothing is cached. ImageNet files have no trained norm at stage 3,
so the norm at the tap is explicit, as in VMamba. Maps are channels-last throughout; layers after the tap are not built.
Source: Xiao et al., Spatial-Mamba: Effective Visual State Space Models via Structure-aware State Fusion
(arXiv 2410.15091).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, empty, nn, ones

from eyeswap.backbones.base import VisionBackbone, keep_precision
from eyeswap.backbones.vit import MLP
from eyeswap.backbones.vmamba import NORMS, Conv, Stage, locate_tap, normed_at_tap
from eyeswap.errors import SpecError, nearest
from eyeswap.ops.layers import DropPath, drop_path_rates, init_linear, init_state_matrix, init_step_bias
from eyeswap.ops.projected_scan import scan_states
from eyeswap.ops.state_fusion import fuse_states

DILATIONS = (1, 3, 5)


class SpatialMamba(VisionBackbone):
    """Spatial-Mamba, truncated after its tap.

    Args:
        embed_dim: channels of the first stage; each later stage doubles them.
        depths: blocks in each stage.
        expand: width of the scan relative to the stage.
        mlp_ratio: hidden width of the MLP relative to the stage.
        drop_path_rate: stochastic depth of the last block in training, decreasing linearly to 0 at the first.
        tap: ``(stage, block)``: the stage counted from 1, the block from 0 or negative from the end.
        norm: norm after the tap: ``trained`` (the ``outnorm`` of a detector or segmentor), ``plain`` (a LayerNorm
            without parameters) or ``none``.

    Raises:
        SpecError: if the network has no such block, or ``norm`` is unknown.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        expand: int = 2,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        tap: Sequence[int] = (3, -1),
        norm: str = "none",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise SpecError(f"norm: unknown norm {norm!r} at the tap. {nearest(norm, NORMS)}")
        stage, layer = locate_tap(tap, depths)
        self.num_stages, self.tap_norm = stage, norm
        self.embed_dim = embed_dim * 2 ** (stage - 1)
        self.patch_embed = Stem(embed_dim)
        rates = drop_path_rates(drop_path_rate, depths)
        self.layers = nn.ModuleList()
        for index in range(stage):
            is_last = index == stage - 1
            built = rates[index][: layer + 1] if is_last else rates[index]
            width = embed_dim * 2**index
            blocks = [Block(width, expand, mlp_ratio, rate) for rate in built]
            self.layers.append(Stage(blocks, None if is_last else Downsample(width)))
        if norm == "trained":
            self.add_module(f"outnorm{stage - 1}", nn.LayerNorm(self.embed_dim))
        self.beyond_tap = (
            *(f"layers.{stage - 1}.blocks.{index}." for index in range(layer + 1, depths[stage - 1])),
            f"layers.{stage - 1}.downsample.",
            *(f"layers.{index}." for index in range(stage, len(depths))),
            *(f"outnorm{index}." for index in range(len(depths)) if norm != "trained" or index != stage - 1),
            "norm.",
            "head.",
        )
        self.apply(init_linear)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``."""
        features = self.patch_embed(pixel_values.permute(0, 2, 3, 1))  # [B, H/4, W/4, C]
        for stage in self.layers:
            features = stage(features)
        return normed_at_tap(self, features, self.tap_norm, self.num_stages)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the tapped stage; each strided convolution rounds up."""
        for _ in range(self.num_stages + 1):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


class ConvNorm(nn.Module):
    """A convolution on channels-last maps, optionally followed by BatchNorm and ReLU."""

    def __init__(self, conv: Conv, *, norm: bool = True, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else None
        self.relu = relu
        self.is_pointwise = conv.kernel_size == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, h, w, C]`` to ``[B, h', w', C']``."""
        # A linear layer, as torch's 1 x 1 convolutions are slow on channels-last maps.
        x = F.linear(x, self.conv.weight.flatten(1), self.conv.bias) if self.is_pointwise else self.conv(x)
        if self.norm is not None:
            x = self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.relu(x, inplace=not torch.is_grad_enabled()) if self.relu else x


class Stem(nn.Module):
    """Stride 4: a strided convolution, a residual pair without final activation, a strided one, a projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.conv1 = ConvNorm(Conv(3, half, 3, 2, 1, bias=False))
        self.conv2 = nn.Sequential(
            ConvNorm(Conv(half, half, 3, 1, 1, bias=False)),
            ConvNorm(Conv(half, half, 3, 1, 1, bias=False), relu=False),
        )
        self.conv3 = nn.Sequential(
            ConvNorm(Conv(half, 4 * dim, 3, 2, 1, bias=False)),
            ConvNorm(Conv(4 * dim, dim, 1, bias=False), relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, 3]`` to ``[B, H/4, W/4, C]``, sizes rounded up."""
        x = self.conv1(x)
        embedded: Tensor = self.conv3(x + self.conv2(x))
        return embedded


class Downsample(nn.Module):
    """Halve the map and double the channels: widen, a strided depthwise convolution, narrow, BatchNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = 8 * dim
        self.conv = nn.Sequential(
            ConvNorm(Conv(dim, wide, 1), norm=False),
            ConvNorm(Conv(wide, wide, 3, 2, 1, groups=wide), norm=False),
            ConvNorm(Conv(wide, 2 * dim, 1), relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, h, w, C]`` to ``[B, h/2, w/2, 2C]``, sizes rounded up."""
        halved: Tensor = self.conv(x)
        return halved


class Block(nn.Module):
    """A depthwise convolution, the scan, another depthwise convolution and the MLP, each a residual branch."""

    def __init__(self, dim: int, expand: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.cpe1 = Conv(dim, dim, 3, padding=1, groups=dim)
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = StructuredScan(dim, expand)
        self.cpe2 = Conv(dim, dim, 3, padding=1, groups=dim)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, h, w, C]`` to ``[B, h, w, C]``."""
        x = x + self.cpe1(x)
        x = x + self.drop_path(self.self_attention(self.ln_1(x)))
        x = x + self.cpe2(x)
        mapped: Tensor = x + self.drop_path(self.mlp(self.ln_2(x)))
        return mapped


class StructuredScan(nn.Module):
    """The token mixer: project, convolve, scan, fuse neighbouring states, norm, gate, project."""

    def __init__(self, dim: int, expand: int) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv2d = Conv(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = nn.Parameter(empty(rank + 2, inner).uniform_(-(inner**-0.5), inner**-0.5))
        self.dt_projs_weight = nn.Parameter(empty(inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_projs_bias = nn.Parameter(empty(inner))
        self.A_logs = nn.Parameter(empty(inner, 1))
        self.Ds = nn.Parameter(ones(inner))
        self.state_fusion = StateFusion(inner)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        init_step_bias(self.dt_projs_bias)
        init_state_matrix(self.A_logs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, h, w, C]`` to ``[B, h, w, C]``."""
        x, z = self.in_proj(x).chunk(2, dim=3)  # [B, h, w, inner] each
        x = F.silu(self.conv2d(x))
        states, c = scan_states(
            x.flatten(1, 2), self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs
        )  # [B, h*w, inner], [B, h*w, 1]
        fused = self.state_fusion(states.view(x.shape))
        y = torch.addcmul(self.Ds * x, fused, c.view(*x.shape[:3], 1)).to(x.dtype)
        mixed: Tensor = self.out_proj(self.out_norm(y) * F.silu(z))
        return mixed


class StateFusion(nn.Module):
    """Mix each state with its neighbours: depthwise convolutions dilated by 1, 3 and 5, borders replicated."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kernel_3, self.kernel_3_1, self.kernel_3_2 = (
            nn.Parameter(empty(dim, 1, 3, 3).uniform_(-1 / 3, 1 / 3)) for _ in DILATIONS
        )
        self.alpha = nn.Parameter(ones(len(DILATIONS)))

    def forward(self, states: Tensor) -> Tensor:
        """Map states ``[B, h, w, C]`` to fused states, in float32 or higher even inside autocast."""
        kernels = [
            share * k for share, k in zip(self.alpha, (self.kernel_3, self.kernel_3_1, self.kernel_3_2), strict=True)
        ]
        with keep_precision(states.device.type):
            return fuse_states(states, kernels, DILATIONS)
