"""Uni-Perceiver with a ViT-Adapter: the vision part of a transformer pretrained jointly on images and text.

Keys and arithmetic are those of the official segmentation backbone. Unusual: patches get a resized spatial embedding
and row 0 of a temporal one (a still image is the first frame), and a LayerNorm after the sum; every LayerNorm, also in
the adapter, has an epsilon of 1e-5; there is no class token; names are those of a text encoder (``layers.N.self_attn``,
``linear1``). Blocks may attend inside windows, zero-padded after the norm; no released file does.
Source: Zhu et al., Uni-Perceiver: Pre-training Unified Architecture for Generic Perception for Zero-shot and Few-shot
Tasks (arXiv 2112.01522); Chen et al., Vision Transformer Adapter for Dense Predictions (2023).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.mambavision import join_windows, split_windows
from eyeswap.backbones.vit import resize_positions
from eyeswap.backbones.vit_adapter import Grid, ViTAdapter
from eyeswap.errors import SpecError
from eyeswap.ops.layers import DropPath

FRAMES = 8  # rows of the temporal embedding


class UniPerceiverAdapter(ViTAdapter):
    """Uni-Perceiver with an adapter, tapped at one of its four output levels.

    Args:
        windows: window side of each block in tokens, None for global attention; by default all blocks are global.
        **network: as for `ViTAdapter`.

    Raises:
        SpecError: if ``windows`` does not have one entry per block, or the tap is not an output level.
    """

    eps = 1e-5

    def __init__(self, *, windows: Sequence[int | None] | None = None, **network: Any) -> None:
        super().__init__(**network)
        if windows is not None:
            attentions = [module for module in self.modules() if isinstance(module, Attention)]
            if len(windows) != len(attentions):
                raise SpecError(f"windows: {len(windows)} entries for {len(attentions)} blocks")
            for attention, side in zip(attentions, windows, strict=True):
                attention.window = side

    def build_transformer(self, grid: Grid, num_heads: int, mlp_ratio: float, rates: Sequence[float]) -> None:
        """Build the transformer; ``grid`` is the grid that the spatial embedding is built for."""
        self.visual_embed = VisualEmbedding(self.embed_dim, grid)
        self.layers = nn.ModuleList(Layer(self.embed_dim, num_heads, mlp_ratio, rate) for rate in rates)

    def embed(self, pixel_values: Tensor, grid: Grid) -> Tensor:
        """Return the patches, ``[B, h*w, D]``."""
        embedded: Tensor = self.visual_embed(pixel_values, grid)
        return embedded

    def transformer_blocks(self, span: range, grid: Grid) -> list[Callable[[Tensor], Tensor]]:
        """Return the blocks of a span; each maps tokens ``[B, h*w, D]`` to the same shape."""
        return [functools.partial(self.layers[index], grid=grid) for index in span]


class Patches(nn.Module):
    """The patch convolution and the position tables, under their official names."""

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 16, 16)
        self.spatial_pos_embed = nn.Embedding(grid[0] * grid[1], dim)
        self.temporal_pos_embed = nn.Embedding(FRAMES, dim)


class VisualEmbedding(nn.Module):
    """Patch embedding with spatial and temporal positions and a LayerNorm."""

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        self.built_grid = grid
        self.patch_embed = Patches(dim, grid)
        self.embeddings_norm = nn.LayerNorm(dim)

    def forward(self, pixel_values: Tensor, grid: Grid) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, h*w, D]``."""
        patches = self.patch_embed.proj(pixel_values).flatten(2).transpose(1, 2)  # [B, N, D]
        positions = self.patch_embed.spatial_pos_embed.weight[None]
        positions = resize_positions(positions, 0, grid, antialias=False, built=self.built_grid)
        normed: Tensor = self.embeddings_norm(patches + positions + self.patch_embed.temporal_pos_embed.weight[0])
        return normed


class Layer(nn.Module):
    """A pre-norm transformer block with layer scale and stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.linear2 = nn.Linear(int(dim * mlp_ratio), dim)
        self.gamma_1 = nn.Parameter(torch.ones(dim))
        self.gamma_2 = nn.Parameter(torch.ones(dim))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map ``[B, h*w, D]`` to the same shape."""
        tokens = tokens + self.drop_path(self.gamma_1 * self.self_attn(self.norm1(tokens), grid))
        mapped = self.linear2(F.gelu(self.linear1(self.norm2(tokens))))
        advanced: Tensor = tokens + self.drop_path(self.gamma_2 * mapped)
        return advanced


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, or inside windows."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window: int | None = None
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map ``[B, h*w, D]`` to the same shape."""
        mixed = self._attend(tokens) if self.window is None else self._attend_windows(tokens, grid, self.window)
        projected: Tensor = self.out_proj(mixed)
        return projected

    def _attend(self, tokens: Tensor) -> Tensor:
        qkv = self.in_proj(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2)

    def _attend_windows(self, tokens: Tensor, grid: Grid, window: int) -> Tensor:
        """Attend inside windows; zero padding on the right and at the bottom takes part as keys."""
        batch, (height, width) = len(tokens), grid
        raster = tokens.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        windows, rows_and_columns = split_windows(raster, window)  # [B * windows, window**2, D]
        mixed = join_windows(self._attend(windows), window, rows_and_columns)[:, :, :height, :width]
        return mixed.flatten(2).transpose(1, 2)
