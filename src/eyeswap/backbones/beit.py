"""BEiT with a ViT-Adapter: the transformer of the largest published segmentors, BEiTv2 included.

Keys and arithmetic are those of the official segmentation backbone. Unusual: positions enter only as an attention bias,
from one table per block that is built for one grid. Images must be squares of 640 or 896 pixels to match training; for
other grids the tables are resized bicubically, which no official code does. The class token passes through all blocks,
although the adapter sees only the patches and no output contains it. Queries and values have a bias, keys have none.
The files contain ``relative_position_index``, half a gigabyte of integers at 640 pixels and nearly two at 896; it is
ignored here, because the table entry of each pair of tokens follows from the grid.
Source: Bao et al., BEiT: BERT Pre-Training of Image Transformers (arXiv 2106.08254); Chen et al., Vision Transformer
Adapter for Dense Predictions (2023).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.vit import MLP, PatchEmbed
from eyeswap.backbones.vit_adapter import Grid, ViTAdapter
from eyeswap.ops.layers import DropPath

CLASS_ROWS = 3  # the last rows of a table: class to patch, patch to class, class to class


class BEiTAdapter(ViTAdapter):
    """BEiT with an adapter, tapped at one of its four output levels; arguments as for `ViTAdapter`."""

    prefix = 1  # the class token
    recomputed = (".relative_position_index",)

    def build_transformer(self, grid: Grid, num_heads: int, mlp_ratio: float, rates: Sequence[float]) -> None:
        """Build the transformer; ``grid`` is the grid that the relative-position tables are built for."""
        self.patch_embed = PatchEmbed(16, self.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.blocks = nn.ModuleList(Block(self.embed_dim, num_heads, mlp_ratio, rate, grid) for rate in rates)

    def embed(self, pixel_values: Tensor, grid: Grid) -> Tensor:
        """Return the class token and the patches, ``[B, 1 + h*w, D]``, without positions."""
        patches = self.patch_embed(pixel_values).flatten(1, 2)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)

    def transformer_blocks(self, span: range, grid: Grid) -> list[Callable[[Tensor], Tensor]]:
        """Return the blocks of a span; each maps tokens ``[B, 1 + h*w, D]`` to the same shape."""
        return [functools.partial(self.blocks[index], grid=grid) for index in span]


class Block(nn.Module):
    """A pre-norm transformer block with layer scale and stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float, built_grid: Grid) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativeAttention(dim, num_heads, built_grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.gamma_1 = nn.Parameter(torch.ones(dim))
        self.gamma_2 = nn.Parameter(torch.ones(dim))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map ``[B, 1 + h*w, D]`` to the same shape."""
        tokens = tokens + self.drop_path(self.gamma_1 * self.attn(self.norm1(tokens), grid))
        mapped: Tensor = tokens + self.drop_path(self.gamma_2 * self.mlp(self.norm2(tokens)))
        return mapped


class RelativeAttention(nn.Module):
    """Multi-head self-attention with a relative-position bias on the logits."""

    def __init__(self, dim: int, num_heads: int, built_grid: Grid) -> None:
        super().__init__()
        self.num_heads, self.built_grid = num_heads, built_grid
        rows, columns = built_grid
        offsets = (2 * rows - 1) * (2 * columns - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets + CLASS_ROWS, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map ``[B, 1 + h*w, D]`` to the same shape."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(tokens, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        positions = relative_bias(self.relative_position_bias_table, self.built_grid, grid)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=positions.to(qkv.dtype))
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


def relative_bias(table: Tensor, built: Grid, grid: Grid) -> Tensor:
    """Expand a relative-position table into a bias on the attention logits.

    Args:
        table: ``[(2h - 1)(2w - 1) + 3, heads]``: one entry per offset (query minus key), row by row; then class to
            patch, patch to class, class to class.
        built: ``(h, w)`` of the grid that the table is built for.
        grid: rows and columns of patches of the image; if it differs from ``built``, the table is resized bicubically.

    Returns:
        ``[heads, 1 + N, 1 + N]``, indexed by query and key, class token first.
    """
    heads, (rows, columns) = table.shape[1], grid
    offsets = table[:-CLASS_ROWS].t().unflatten(1, (2 * built[0] - 1, 2 * built[1] - 1))  # [heads, 2h-1, 2w-1]
    if grid != built:
        resized = F.interpolate(offsets[None].float(), (2 * rows - 1, 2 * columns - 1), mode="bicubic")
        offsets = resized[0].to(table.dtype)
    # Window (i, j) of the flipped table holds the entries of query (h-1-i, w-1-j) for all keys, in key order. That is a
    # view; the official code gathers with an index as large as the attention matrix itself.
    windows = offsets.flip(1, 2).unfold(1, rows, 1).unfold(2, columns, 1).flip(1, 2)  # [heads, h, w, h, w]
    to_patch, from_patch, to_class = table[-CLASS_ROWS:, :, None]  # [heads, 1] each
    patches = windows.reshape(heads, rows * columns, rows * columns)
    patches = torch.cat([from_patch.expand(-1, rows * columns)[..., None], patches], dim=2)  # [heads, N, 1+N]
    first = torch.cat([to_class, to_patch.expand(-1, rows * columns)], dim=1)  # [heads, 1+N]
    return torch.cat([first[:, None], patches], dim=1)
