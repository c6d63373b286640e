"""MambaVision: convolution blocks at strides 4 and 8, then windows mixed by selective scans and by attention.

Keys and arithmetic are those of the official ``mamba_vision.py``, written from a description of them.
Unusual: the step-size bias is applied twice (inside ``dt_proj`` and again in the scan); the half ``z`` is
concatenated to the scan's output rather than multiplied with it; the convolutions of a mixer are not causal and have no
bias; windows are zero-padded before their norms. The published study reads the network after level 1, where no mixer
and no attention has run yet; the default here is level 2 before its downsampling: the same grid and width, after the
mixers.
Source: Hatamizadeh and Kautz, MambaVision: A Hybrid Mamba-Transformer Vision Backbone (arXiv 2407.08083).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.vit import MLP
from eyeswap.errors import SpecError, nearest
from eyeswap.ops.conv_norm import conv_norm
from eyeswap.ops.layers import DropPath, drop_path_rates, init_linear, init_state_matrix, init_step_bias
from eyeswap.ops.selective_scan import selective_scan

POINTS = ("before", "after", "norm")


class MambaVision(VisionBackbone):
    """MambaVision, truncated after its tap.

    Args:
        dim: channels of level 0; each later level doubles them.
        in_dim: output channels of the first stem convolution.
        depths: blocks of the four levels.
        num_heads: attention heads of each level (levels 2 and 3 have attention).
        window_size: window side of each level, in tokens (levels 2 and 3 have windows).
        mlp_ratio: hidden width of the MLP relative to the level.
        d_state: state size S of the scan.
        layer_scale: initial value of the per-channel scale of residual branches in levels 2 and 3, or None.
        drop_path_rate: stochastic depth of the last block in training, decreasing linearly to 0 at the first.
        tap: ``(level, point)``: level 0-3, and ``before`` or ``after`` its downsampling; ``(3, "norm")`` is
            the output of the last level after the final BatchNorm.

    Raises:
        SpecError: if the tap does not exist.
    """

    def __init__(
        self,
        *,
        dim: int = 80,
        in_dim: int = 32,
        depths: Sequence[int] = (1, 3, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        window_size: Sequence[int] = (8, 8, 14, 7),
        mlp_ratio: float = 4.0,
        d_state: int = 8,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        tap: tuple[int, str] = (2, "before"),
    ) -> None:
        super().__init__()
        last, point = _check_tap(tap, len(depths))
        self.halvings = 2 + last + (point == "after")
        self.embed_dim = dim * 2 ** (self.halvings - 2)
        self.patch_embed = PatchEmbed(in_dim, dim)
        rates = drop_path_rates(drop_path_rate, depths)
        self.levels = nn.ModuleList()
        for index in range(last + 1):
            width = dim * 2**index
            downsample = Downsample(width) if index < last or point == "after" else None
            if index < 2:
                blocks = [ConvBlock(width, rate) for rate in rates[index]]
                self.levels.append(Level(blocks, downsample))
                continue
            mixers = depths[index] - depths[index] // 2  # the first half, and the middle one of an odd depth
            window_blocks = [
                Block(
                    Mixer(width, d_state) if number < mixers else Attention(width, num_heads[index]),
                    width, mlp_ratio, layer_scale, rate,
                )
                for number, rate in enumerate(rates[index])
            ]  # fmt: skip
            self.levels.append(Level(window_blocks, downsample, window_size[index]))
        self.norm = nn.BatchNorm2d(self.embed_dim) if point == "norm" else None
        self.beyond_tap = (
            *(() if point == "after" else (f"levels.{last}.downsample.",)),
            *(f"levels.{index}." for index in range(last + 1, len(depths))),
            *(() if point == "norm" else ("norm.",)),
            "head.",
        )
        _initialise(self)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``."""
        features = self.patch_embed(pixel_values)  # [B, C, H/4, W/4]
        for level in self.levels:
            features = level(features)
        features = features if self.norm is None else self.norm(features)
        result: Tensor = features.permute(0, 2, 3, 1)
        return result

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns at the tap; each halving rounds up."""
        for _ in range(self.halvings):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


class PatchEmbed(nn.Module):
    """Two strided convolutions, each with BatchNorm and ReLU; stride 4 in total."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(3, in_dim, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(in_dim, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(dim, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, C, H/4, W/4]``, sizes rounded up."""
        layers: Any = self.conv_down
        conv1, norm1, _, conv2, norm2, _ = layers
        return conv_norm(conv_norm(x, conv1, norm1, "relu"), conv2, norm2, "relu")


class Downsample(nn.Module):
    """A strided convolution that halves the map and doubles the channels, without a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, 2C, H/2, W/2]``, sizes rounded up."""
        conv: Any = self.reduction[0]
        return conv_norm(x, conv, None)


class Level(nn.Module):
    """Blocks of one width, on the map or on its windows, then the downsampling to the next level."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, window: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the next level's input or, in the last level, to the blocks' output."""
        if self.window is None:
            x = self.blocks(x)
        else:
            height, width = x.shape[2:]
            windows, grid = split_windows(x, self.window)  # [B * windows, window**2, C]
            x = join_windows(self.blocks(windows), self.window, grid)[:, :, :height, :width]
        return x if self.downsample is None else self.downsample(x)


def split_windows(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """Split a map into windows, zero-padded on the right and at the bottom.

    Returns:
        ``[B * rows * columns, window**2, C]``, windows and their tokens row by row, and (rows, columns) of windows.
    """
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % window, 0, -height % window))
    x = x.unflatten(2, (-1, window)).unflatten(4, (-1, window))  # [B, C, rows, window, columns, window]
    grid = (x.shape[2], x.shape[4])
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2), grid


def join_windows(windows: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """Undo `split_windows`; return ``[B, C, rows * window, columns * window]``, padding included."""
    batch = windows.shape[0] // (grid[0] * grid[1])
    x = windows.view(batch, *grid, window, window, -1)  # [B, rows, columns, window, window, C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class ConvBlock(nn.Module):
    """Two convolutions with BatchNorm inside a residual branch."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, H, W]``."""
        branch = conv_norm(conv_norm(x, self.conv1, self.norm1, "gelu-tanh"), self.conv2, self.norm2)
        mixed: Tensor = x + self.drop_path(branch)
        return mixed


class Block(nn.Module):
    """A token mixer (scan or attention) and an MLP, each with a pre-norm and a residual connection."""

    def __init__(
        self, mixer: nn.Module, dim: int, mlp_ratio: float, layer_scale: float | None, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale))
            self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, N, D]`` to ``[B, N, D]``."""
        mixed = self.mixer(self.norm1(tokens))
        tokens = tokens + self.drop_path(mixed if self.gamma_1 is None else self.gamma_1 * mixed)
        mapped = self.mlp(self.norm2(tokens))
        tokens = tokens + self.drop_path(mapped if self.gamma_2 is None else self.gamma_2 * mapped)
        return tokens


class Mixer(nn.Module):
    """The Mamba mixer of a window: half of the channels are scanned, the others only convolved."""

    def __init__(self, dim: int, d_state: int) -> None:
        super().__init__()
        half, self.rank, self.d_state = dim // 2, math.ceil(dim / 16), d_state
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.conv1d_x = nn.Conv1d(half, half, 3, padding=1, groups=half, bias=False)
        self.conv1d_z = nn.Conv1d(half, half, 3, padding=1, groups=half, bias=False)
        self.x_proj = nn.Linear(half, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, half)
        self.A_log = nn.Parameter(torch.empty(half, d_state))
        self.D = nn.Parameter(torch.ones(half))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, N, D]`` to ``[B, N, D]``."""
        x, z = self.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)  # [B, D/2, N] each
        x, z = F.silu(self.conv1d_x(x)), F.silu(self.conv1d_z(z))
        code, b, c = self.x_proj(x.transpose(1, 2)).split([self.rank, self.d_state, self.d_state], dim=2)
        delta = self.dt_proj(code).transpose(1, 2)  # [B, D/2, N], with the bias that the scan adds once more
        b, c = b.transpose(1, 2), c.transpose(1, 2)  # [B, S, N]
        y = selective_scan(x, delta, -torch.exp(self.A_log), b, c, self.D, self.dt_proj.bias, True)
        mixed: Tensor = self.out_proj(torch.cat([y, z], dim=1).transpose(1, 2))
        return mixed


class Attention(nn.Module):
    """Multi-head self-attention inside a window, without position information."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, N, D]`` to ``[B, N, D]``."""
        batch, length, dim = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, N, d] each
        mixed = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


def _check_tap(tap: tuple[int, str], num_levels: int) -> tuple[int, str]:
    level, point = tap
    if point not in POINTS:
        raise SpecError(f"tap: a level has no point {point!r}. {nearest(point, POINTS)}")
    if not 0 <= level < num_levels:
        raise SpecError(f"tap: level {level} does not exist in a network of levels 0-{num_levels - 1}")
    if point == "after" and level == num_levels - 1:
        raise SpecError(f"tap: level {level} is the last and has no downsampling; use before or norm")
    if point == "norm" and level != num_levels - 1:
        raise SpecError(f"tap: the final norm follows level {num_levels - 1}, not level {level}")
    return level, point


def _initialise(network: nn.Module) -> None:
    network.apply(init_linear)
    for module in network.modules():
        if isinstance(module, Mixer):
            nn.init.uniform_(module.dt_proj.weight, -(module.rank**-0.5), module.rank**-0.5)
            init_step_bias(module.dt_proj.bias)
            init_state_matrix(module.A_log)
