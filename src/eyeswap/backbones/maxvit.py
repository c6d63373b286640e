"""MaxViT: convolution blocks, each followed by attention in local windows and attention over a dilated grid.

Keys and arithmetic are those of timm's ``maxvit_*_tf_*`` models. Unusual: TensorFlow "same" padding (an odd pixel
goes to the right and bottom), BatchNorm epsilon 1e-3, tanh GELU, and relative-position tables of shape
(heads, 2w-1, 2w-1), so that weights fit one window size w only: image size / 32 in the released files. Stages after the
tap are not built.
Source: Tu et al., MaxViT: Multi-Axis Vision Transformer (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.vit import MLP
from eyeswap.errors import ShapeError, SpecError
from eyeswap.ops.conv_norm import conv_norm


class MaxViT(VisionBackbone):
    """MaxViT, truncated after its tap.

    Args:
        stem_dim: channels of the stem.
        dims: channels of each stage.
        depths: blocks in each stage.
        img_size: image side that the network is built for; sets the window size unless ``window`` is given.
        window: side of a window and of a grid, in tokens.
        head_dim: channels per attention head.
        tap: stage whose output is read, counted from 1.

    Raises:
        SpecError: if the network has no such stage.
    """

    def __init__(
        self,
        *,
        stem_dim: int = 64,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 5, 2),
        img_size: int = 224,
        window: int | None = None,
        head_dim: int = 32,
        tap: int = 3,
    ) -> None:
        super().__init__()
        if len(dims) != len(depths):
            raise SpecError(f"dims has {len(dims)} stages, depths has {len(depths)}")
        if not 1 <= tap <= len(dims):
            raise SpecError(f"tap: stage {tap} does not exist in a network of {len(dims)} stages (1-{len(dims)})")
        self.tap, self.embed_dim = tap, dims[tap - 1]
        self.window = window or img_size // 32
        self.stem = Stem(stem_dim)
        inputs = (stem_dim, *dims)
        self.stages = nn.ModuleList(
            Stage(inputs[index], dims[index], depths[index], self.window, head_dim) for index in range(tap)
        )
        self.beyond_tap = (*(f"stages.{index}." for index in range(tap, len(dims))), "head.")
        _initialise(self)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``, without a norm."""
        self.token_grid(*pixel_values.shape[-2:])
        features = self.stem(pixel_values)  # [B, C, H/2, W/2]
        for stage in self.stages:
            features = stage(features)
        result: Tensor = features.permute(0, 2, 3, 1)
        return result

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the tapped stage.

        Raises:
            ShapeError: if the map of a stage is not a whole number of windows.
        """
        rows, columns = -(-height // 2), -(-width // 2)
        for stage in range(1, self.tap + 1):
            rows, columns = -(-rows // 2), -(-columns // 2)
            if rows % self.window or columns % self.window or not rows or not columns:
                raise ShapeError(
                    f"image of {height}x{width} pixels: {rows}x{columns} cells in stage {stage} are not whole "
                    f"windows of {self.window}; use multiples of {self.window * 2 ** (self.tap + 1)} pixels"
                )
        return rows, columns


class Stem(nn.Module):
    """Two 3x3 convolutions, the first with stride 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, 3, stride=2)
        self.norm1 = nn.BatchNorm2d(dim, eps=1e-3)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, C, H/2, W/2]``."""
        features = conv_norm(pad_same(pixel_values, kernel=3), self.conv1, self.norm1, "gelu-tanh")
        return conv_norm(features, self.conv2, None)


class Stage(nn.Module):
    """A sequence of MaxViT blocks; the first one halves the map."""

    def __init__(self, dim_in: int, dim: int, depth: int, window: int, head_dim: int) -> None:
        super().__init__()
        rest = (MaxViTBlock(dim, dim, 1, window, head_dim) for _ in range(depth - 1))
        self.blocks = nn.Sequential(MaxViTBlock(dim_in, dim, 2, window, head_dim), *rest)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]`` to ``[B, C, H/2, W/2]``."""
        mapped: Tensor = self.blocks(features)
        return mapped


class MaxViTBlock(nn.Module):
    """Convolution, window attention, grid attention."""

    def __init__(self, dim_in: int, dim: int, stride: int, window: int, head_dim: int) -> None:
        super().__init__()
        self.conv = MBConv(dim_in, dim, stride)
        self.attn_block = PartitionAttention(dim, window, head_dim, dilated=False)
        self.attn_grid = PartitionAttention(dim, window, head_dim, dilated=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]`` to ``[B, C, H/stride, W/stride]``."""
        raster = self.conv(features).permute(0, 2, 3, 1)  # [B, H, W, C]
        raster = self.attn_grid(self.attn_block(raster))
        mapped: Tensor = raster.permute(0, 3, 1, 2)
        return mapped


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise 3x3, squeeze-excite, project, with a pooled shortcut."""

    def __init__(self, dim_in: int, dim: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.stride = stride
        self.shortcut = Shortcut(dim_in, dim) if stride > 1 or dim_in != dim else nn.Identity()
        self.pre_norm = nn.BatchNorm2d(dim_in, eps=1e-3)
        self.conv1_1x1 = nn.Conv2d(dim_in, hidden, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self.conv2_kxk = nn.Conv2d(
            hidden, hidden, 3, stride, padding=1 if stride == 1 else 0, groups=hidden, bias=False
        )
        self.norm2 = nn.BatchNorm2d(hidden, eps=1e-3)
        self.se = SqueezeExcite(hidden, dim // 4)
        self.conv3_1x1 = nn.Conv2d(hidden, dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]`` to ``[B, C, H/stride, W/stride]``."""
        hidden = conv_norm(features, self.conv1_1x1, self.norm1, "gelu-tanh", before=self.pre_norm)  # [B, 4C, H, W]
        if self.stride > 1:
            hidden = pad_same(hidden, kernel=3)
        hidden = self.se(conv_norm(hidden, self.conv2_kxk, self.norm2, "gelu-tanh"))
        mapped: Tensor = self.shortcut(features) + conv_norm(hidden, self.conv3_1x1, None)
        return mapped


class Shortcut(nn.Module):
    """Halve a map by 2x2 average pooling, and widen it if the widths differ."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]`` to ``[B, C, H/2, W/2]``."""
        mapped: Tensor = self.expand(F.avg_pool2d(pad_same(features, kernel=2), 2))
        return mapped


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the spatial means of all channels."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, H, W]``."""
        gate = self.fc2(F.silu(self.fc1(features.mean((2, 3), keepdim=True))))  # [B, C, 1, 1]
        gated: Tensor = features * gate.sigmoid()
        return gated


class PartitionAttention(nn.Module):
    """A transformer block whose attention stays inside windows, or inside a dilated grid."""

    def __init__(self, dim: int, window: int, head_dim: int, *, dilated: bool) -> None:
        super().__init__()
        self.window, self.dilated = window, dilated
        self.norm1 = nn.LayerNorm(dim)
        self.attn = RelativeAttention(dim, dim // head_dim, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim, approximate="tanh")

    def forward(self, raster: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        raster = raster + self._attend(self.norm1(raster))
        mapped: Tensor = raster + self.mlp(self.norm2(raster))
        return mapped

    def _attend(self, raster: Tensor) -> Tensor:
        batch, height, width, channels = raster.shape
        rows, columns = height // self.window, width // self.window
        # A window holds neighbouring cells; a grid holds cells that are `rows` and `columns` apart.
        split = (self.window, rows, self.window, columns) if self.dilated else (rows, self.window, columns, self.window)
        order = (0, 2, 4, 1, 3, 5) if self.dilated else (0, 1, 3, 2, 4, 5)
        groups = raster.reshape(batch, *split, channels).permute(order)  # [B, rows, columns, w, w, C]
        shape = groups.shape
        mixed = self.attn(groups.flatten(3, 4).flatten(0, 2)).reshape(shape)  # attn on [B*groups, w*w, C]
        inverse = sorted(range(6), key=order.__getitem__)
        result: Tensor = mixed.permute(inverse).reshape(batch, height, width, channels)
        return result


class RelativeAttention(nn.Module):
    """Multi-head self-attention over a square of tokens, with a learned bias per relative position."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos = RelativePosition(num_heads, window)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, w*w, C]`` to ``[B, w*w, C]``."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, d]
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=self.rel_pos().to(qkv.dtype))
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # [B, N, C]
        return projected


class RelativePosition(nn.Module):
    """The table of attention biases by relative position, and its expansion to all token pairs."""

    index: Tensor

    def __init__(self, num_heads: int, window: int) -> None:
        super().__init__()
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_heads, side, side))
        place = torch.arange(window)
        offset = place[None, :] - place[:, None] + window - 1  # [query, key], key minus query
        index = offset[:, None, :, None] * side + offset[None, :, None, :]  # [qy, qx, ky, kx]
        self.register_buffer("index", index.flatten(2).flatten(0, 1), persistent=False)

    def forward(self) -> Tensor:
        """Return the bias of each pair of query and key, ``[heads, w*w, w*w]``."""
        return self.relative_position_bias_table.flatten(1)[:, self.index]


def pad_same(features: Tensor, kernel: int) -> Tensor:
    """Pad ``[B, C, H, W]`` for stride 2 as TensorFlow's "same" does: ceil(n/2) outputs, an odd zero at the end."""
    pads = []
    for size in (features.shape[-1], features.shape[-2]):
        total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(features, pads)


def _initialise(network: nn.Module) -> None:
    """Initialise: fan-out normal for convolutions, truncated normal of std 0.02 elsewhere."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, RelativePosition):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
