"""ViTDet: a plain vision transformer for large images, with window attention in most blocks.

Keys and arithmetic are those of detectron2's ViT (the ``backbone.net.`` part of a ViTDet detector; its pyramid and
heads are not needed). Unusual: positions enter twice, as an absolute embedding and as a decomposed relative bias (one
term for rows, one for columns) computed from the unscaled query; windows are zero-padded after the norm, and padded
cells take part as keys; there is no class token, although its row remains in ``pos_embed``; there is no final norm.
Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.vit import MLP, PatchEmbed, block_index, initialise, patch_grid, resize_positions
from eyeswap.ops.layers import DropPath, drop_path_rates


class ViTDet(VisionBackbone):
    """The transformer of a ViTDet detector, truncated after its tap.

    Args:
        img_size: side of the square image that the relative positions of global blocks are built for.
        patch_size: side of a patch in pixels.
        embed_dim: token width ``D``.
        depth: number of blocks of the complete network.
        num_heads: attention heads.
        mlp_ratio: MLP width relative to ``embed_dim``.
        window_size: side of a window in tokens.
        window_block_indexes: blocks with window attention; the others attend globally.
        pretrain_img_size: side of the square image that the position embedding is built for.
        drop_path_rate: stochastic depth of the last block, in training mode only.
        tap: block whose output is read; negative counts from the end.

    Raises:
        SpecError: if the network has no such block.
    """

    def __init__(
        self,
        *,
        img_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        window_size: int = 14,
        window_block_indexes: Sequence[int] = (0, 1, 3, 4, 6, 7, 9, 10),
        pretrain_img_size: int = 224,
        drop_path_rate: float = 0.0,
        tap: int = -1,
    ) -> None:
        super().__init__()
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.tap = block_index(tap, depth)
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, (pretrain_img_size // patch_size) ** 2 + 1, embed_dim))
        (rates,) = drop_path_rates(drop_path_rate, (depth,))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                window=window_size if index in window_block_indexes else None,
                side=window_size if index in window_block_indexes else img_size // patch_size,
                drop_path_rate=rates[index],
            )
            for index in range(self.tap + 1)
        )
        self.beyond_tap = tuple(f"blocks.{index}." for index in range(self.tap + 1, depth))
        initialise(self)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``, without a norm."""
        grid = self.token_grid(*pixel_values.shape[-2:])
        positions = resize_positions(self.pos_embed[:, 1:], 0, grid, antialias=False)
        raster: Tensor = self.patch_embed(pixel_values) + positions.reshape(1, *grid, self.embed_dim)  # [B, h, w, D]
        for block in self.blocks:
            raster = block(raster)
        return raster

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches.

        Raises:
            ShapeError: if a side is not a multiple of the patch size.
        """
        return patch_grid(height, width, self.patch_size)


class Block(nn.Module):
    """A pre-norm transformer block with global or window attention."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        window: int | None,
        side: int,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativeAttention(dim, num_heads, side)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, raster: Tensor) -> Tensor:
        """Map ``[B, h, w, D]`` to ``[B, h, w, D]``."""
        normed = self.norm1(raster)
        mixed = self.attn(normed) if self.window is None else self._attend_windows(normed, self.window)
        raster = raster + self.drop_path(mixed)
        mapped: Tensor = raster + self.drop_path(self.mlp(self.norm2(raster)))
        return mapped

    def _attend_windows(self, raster: Tensor, window: int) -> Tensor:
        batch, height, width, dim = raster.shape
        padded = F.pad(raster, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = padded.shape[1] // window, padded.shape[2] // window
        split = padded.reshape(batch, rows, window, columns, window, dim).transpose(2, 3)
        mixed = self.attn(split.reshape(-1, window, window, dim))  # [B*rows*columns, w, w, D]
        mixed = mixed.reshape(batch, rows, columns, window, window, dim).transpose(2, 3)
        joined: Tensor = mixed.reshape(padded.shape)[:, :height, :width]
        return joined


class RelativeAttention(nn.Module):
    """Multi-head self-attention over a raster with decomposed relative positions."""

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))

    def forward(self, raster: Tensor) -> Tensor:
        """Map ``[B, h, w, D]`` to ``[B, h, w, D]``."""
        batch, rows, columns, _ = raster.shape
        qkv = self.qkv(raster).reshape(batch, rows * columns, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, N, d]
        square = query.reshape(batch, self.num_heads, rows, columns, -1)
        by_row = torch.einsum("bnhwd,hkd->bnhwk", square, relative_table(self.rel_pos_h, rows))
        by_column = torch.einsum("bnhwd,wkd->bnhwk", square, relative_table(self.rel_pos_w, columns))
        bias = by_row[..., :, None] + by_column[..., None, :]  # [B, heads, h, w, h, w]
        bias = bias.reshape(batch, self.num_heads, rows * columns, rows * columns)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(raster.shape))
        return projected


def relative_table(table: Tensor, size: int) -> Tensor:
    """Expand a table of relative positions to all pairs of query and key.

    Args:
        table: ``[2*s - 1, d]``; resized linearly if built for another size.
        size: positions along the axis.

    Returns:
        ``[size, size, d]``: the entry for each query and key, by query minus key.
    """
    length = 2 * size - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], length, mode="linear")[0].T
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place[None, :] + size - 1]
