"""ViT-Adapter: a plain vision transformer that exchanges features with a small convolutional pyramid.

Keys and arithmetic are those of the official segmentation backbone. Unusual: output level k (f1 to f4, strides 4, 8,
16, 32, all of the same width) adds the tokens after interaction k, not the final ones, and has its own BatchNorm;
blocks have a layer scale (``gamma1``, ``gamma2``) that published files may lack, in which case it is one; there is no
class token, although its row remains in ``pos_embed``. The transformer here is a DeiT or AugReg ViT; ``beit.py`` and
``uniperceiver.py`` use the same adapter with other transformers.
Source: Chen et al., Vision Transformer Adapter for Dense Predictions (2023); deformable attention: Zhu et al.,
Deformable DETR (2021), equation 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones import vit
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.vit import PatchEmbed, initialise, resize_positions
from eyeswap.errors import ShapeError, SpecError
from eyeswap.ops.layers import DropPath, drop_path_rates

Grid = tuple[int, int]  # rows and columns
Sizes = list[Grid]


@dataclass(frozen=True)
class AdapterShape:
    """Settings shared by the interactions of an adapter.

    Attributes:
        dim: width ``D`` of tokens and outputs.
        num_heads: heads of the deformable attention.
        num_points: points that a query samples from each map.
        ratio: width of the values relative to ``dim``.
        hidden: hidden width of the extractors' feed-forward network.
        drop_path_rate: stochastic depth of the extractors, in training mode only.
        eps: epsilon of the LayerNorms.
        prefix: number of leading tokens that are not patches; the transformer sees them, the adapter does not.
    """

    dim: int
    num_heads: int
    num_points: int
    ratio: float
    hidden: int
    drop_path_rate: float
    eps: float
    prefix: int


class ViTAdapter(VisionBackbone):
    """A ViT with an adapter, tapped at one of its four output levels.

    Subclasses replace the transformer: ``build_transformer``, ``embed`` and ``transformer_blocks``.

    Args:
        pretrain_size: side, or height and width, of the image that the position embedding is built for.
        embed_dim: width ``D`` of tokens and outputs.
        depth: number of transformer blocks.
        num_heads: attention heads.
        mlp_ratio: MLP width relative to ``embed_dim``.
        conv_inplane: channels of the pyramid's stem.
        n_points: points that a query samples from each map.
        deform_num_heads: heads of the deformable attention.
        deform_ratio: width of its values relative to ``embed_dim``.
        cffn_ratio: hidden width of the extractors' feed-forward network relative to ``embed_dim``.
        interaction_indexes: first and last block of each interaction.
        drop_path_rate: stochastic depth of the last block, in training mode only.
        tap: output level 1 to 4, strides 4, 8, 16 and 32.

    Raises:
        SpecError: if the tap is not an output level.
    """

    eps = 1e-6
    prefix = 0

    def __init__(
        self,
        *,
        pretrain_size: int | Sequence[int] = 224,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        conv_inplane: int = 64,
        n_points: int = 4,
        deform_num_heads: int = 6,
        deform_ratio: float = 1.0,
        cffn_ratio: float = 0.25,
        interaction_indexes: Sequence[Sequence[int]] = ((0, 2), (3, 5), (6, 8), (9, 11)),
        drop_path_rate: float = 0.0,
        tap: int = 3,
    ) -> None:
        super().__init__()
        if not 1 <= tap <= 4:
            raise SpecError(f"tap: output level {tap} does not exist in a ViT-Adapter (1-4)")
        if len(interaction_indexes) != 4:
            raise SpecError(
                f"interaction_indexes: {len(interaction_indexes)} interactions, expected 4, one per output level"
            )
        self.embed_dim, self.tap = embed_dim, tap
        self.spans = [range(first, last + 1) for first, last in interaction_indexes]
        height, width = (pretrain_size, pretrain_size) if isinstance(pretrain_size, int) else pretrain_size
        (rates,) = drop_path_rates(drop_path_rate, (depth,))
        self.build_transformer((height // 16, width // 16), num_heads, mlp_ratio, rates)
        self.level_embed = nn.Parameter(torch.zeros(3, embed_dim))
        self.spm = SpatialPrior(conv_inplane, embed_dim, with_stride_4=tap == 1)
        shape = AdapterShape(
            embed_dim, deform_num_heads, n_points, deform_ratio, int(embed_dim * cffn_ratio), drop_path_rate,
            self.eps, self.prefix,
        )  # fmt: skip
        self.interactions = nn.ModuleList(
            Interaction(shape, num_extra=2 if span is self.spans[-1] else 0) for span in self.spans
        )
        if tap == 1:
            self.up = nn.ConvTranspose2d(embed_dim, embed_dim, 2, 2)
        self.add_module(f"norm{tap}", nn.BatchNorm2d(embed_dim))
        other_norms = tuple(f"norm{level}." for level in range(1, 5) if level != tap)
        self.beyond_tap = other_norms if tap == 1 else (*other_norms, "up.", "spm.fc1.")
        initialise(self)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.initialise()

    def build_transformer(
        self, grid: tuple[int, int], num_heads: int, mlp_ratio: float, rates: Sequence[float]
    ) -> None:
        """Build the transformer, under its official names.

        Args:
            grid: rows and columns of patches that the position embedding is built for.
            num_heads: attention heads.
            mlp_ratio: MLP width relative to ``embed_dim``.
            rates: stochastic depth of each block.
        """
        self.patch_embed = PatchEmbed(16, self.embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + 1, self.embed_dim))
        self.blocks = nn.ModuleList(ScaledBlock(self.embed_dim, num_heads, mlp_ratio, rate) for rate in rates)
        self.may_lack = (".gamma1", ".gamma2")

    def embed(self, pixel_values: Tensor, grid: Grid) -> Tensor:
        """Return the input of the first block, ``[B, prefix + h*w, D]``."""
        positions = resize_positions(self.pos_embed[:, 1:], 0, grid, antialias=False)
        embedded: Tensor = self.patch_embed(pixel_values).flatten(1, 2) + positions
        return embedded

    def transformer_blocks(self, span: range, grid: Grid) -> list[Callable[[Tensor], Tensor]]:
        """Return the blocks of a span; each maps tokens ``[B, prefix + h*w, D]`` to the same shape."""
        return [self.blocks[index] for index in span]

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the tapped output level, ``[B, h, w, D]``."""
        rows, columns = grid = self._patch_grid(*pixel_values.shape[-2:])
        sizes = [(2 * rows, 2 * columns), (rows, columns), (rows // 2, columns // 2)]
        stride_4, *pyramid = self.spm(pixel_values)
        prior = torch.cat(
            [cells.flatten(2).transpose(1, 2) + self.level_embed[i] for i, cells in enumerate(pyramid)], dim=1
        )  # [B, 21*h*w/4, D]
        tokens = self.embed(pixel_values, grid)  # [B, prefix + h*w, D]
        for level, (interaction, span) in enumerate(zip(self.interactions, self.spans, strict=True), start=1):
            tokens, prior = interaction(tokens, prior, self.transformer_blocks(span, grid), sizes)
            if level == self.tap:
                patches = tokens[:, self.prefix :]
                raster = patches.transpose(1, 2).reshape(len(tokens), -1, rows, columns)  # [B, D, h, w]
        maps = [
            cells.transpose(1, 2).reshape(len(tokens), -1, *size)
            for cells, size in zip(torch.split(prior, [h * w for h, w in sizes], dim=1), sizes, strict=True)
        ]
        features = stride_4 + self.up(maps[0]) if self.tap == 1 else maps[self.tap - 2]
        if self.tap != 3:
            raster = F.interpolate(raster, features.shape[-2:], mode="bilinear")
        normed: Tensor = self.get_submodule(f"norm{self.tap}")(features + raster)
        return normed.permute(0, 2, 3, 1)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the tapped level.

        Raises:
            ShapeError: if a side is not a multiple of 32.
        """
        self._patch_grid(height, width)
        stride = 2 ** (self.tap + 1)
        return height // stride, width // stride

    def _patch_grid(self, height: int, width: int) -> tuple[int, int]:
        if height % 32 or width % 32 or not height or not width:
            raise ShapeError(f"image of {height}x{width} pixels: both sides must be multiples of 32")
        return height // 16, width // 16


class ScaledBlock(vit.Block):
    """A transformer block with layer scale and stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__(dim, num_heads, mlp_ratio)
        self.gamma1 = nn.Parameter(torch.ones(dim))
        self.gamma2 = nn.Parameter(torch.ones(dim))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, N, D]`` to ``[B, N, D]``."""
        tokens = tokens + self.drop_path(self.gamma1 * self.attn(self.norm1(tokens)))
        mapped: Tensor = tokens + self.drop_path(self.gamma2 * self.mlp(self.norm2(tokens)))
        return mapped


class SpatialPrior(nn.Module):
    """A small convolutional pyramid with maps at strides 4, 8, 16 and 32, all projected to the same width."""

    def __init__(self, inplane: int, dim: int, *, with_stride_4: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv_norm(3, inplane, stride=2),
            *_conv_norm(inplane, inplane, stride=1),
            *_conv_norm(inplane, inplane, stride=1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_conv_norm(inplane, 2 * inplane, stride=2))
        self.conv3 = nn.Sequential(*_conv_norm(2 * inplane, 4 * inplane, stride=2))
        self.conv4 = nn.Sequential(*_conv_norm(4 * inplane, 4 * inplane, stride=2))
        self.fc1 = nn.Conv2d(inplane, dim, 1) if with_stride_4 else nn.Identity()
        self.fc2 = nn.Conv2d(2 * inplane, dim, 1)
        self.fc3 = nn.Conv2d(4 * inplane, dim, 1)
        self.fc4 = nn.Conv2d(4 * inplane, dim, 1)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map ``[B, 3, H, W]`` to maps ``[B, D, H/s, W/s]``; that of stride 4 is projected only if the tap reads it."""
        stride_4 = self.stem(pixel_values)
        stride_8 = self.conv2(stride_4)
        stride_16 = self.conv3(stride_8)
        stride_32 = self.conv4(stride_16)
        return self.fc1(stride_4), self.fc2(stride_8), self.fc3(stride_16), self.fc4(stride_32)


class Interaction(nn.Module):
    """Inject the pyramid into the tokens, run a span of blocks, extract the tokens back into the pyramid."""

    def __init__(self, shape: AdapterShape, *, num_extra: int) -> None:
        super().__init__()
        self.prefix = shape.prefix
        self.injector = Injector(shape)
        self.extractor = Extractor(shape)
        if num_extra:
            self.extra_extractors = nn.ModuleList(Extractor(shape) for _ in range(num_extra))

    def forward(
        self, tokens: Tensor, prior: Tensor, blocks: Sequence[Callable[[Tensor], Tensor]], sizes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """Map tokens ``[B, prefix + h*w, D]`` and pyramid ``[B, 21*h*w/4, D]`` to the same shapes."""
        patches = self.injector(tokens[:, self.prefix :], prior, sizes)
        tokens = torch.cat([tokens[:, : self.prefix], patches], dim=1) if self.prefix else patches
        for block in blocks:
            tokens = block(tokens)
        patches = tokens[:, self.prefix :]
        prior = self.extractor(prior, patches, sizes)
        for extractor in getattr(self, "extra_extractors", ()):
            prior = extractor(prior, patches, sizes)
        return tokens, prior


class Injector(nn.Module):
    """Let every patch attend to the pyramid."""

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.feat_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.attn = DeformableAttention(shape, num_maps=3)
        self.gamma = nn.Parameter(torch.zeros(shape.dim))

    def forward(self, patches: Tensor, prior: Tensor, sizes: Sizes) -> Tensor:
        """Map patches ``[B, h*w, D]`` to the same shape; ``sizes`` are those of the pyramid's maps."""
        points = reference_points(sizes[1:2], patches)
        injected = self.attn(self.query_norm(patches), points, self.feat_norm(prior), sizes)
        mapped: Tensor = patches + self.gamma * injected
        return mapped


class Extractor(nn.Module):
    """Let every cell of the pyramid attend to the patches, then mix neighbouring cells."""

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.feat_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.attn = DeformableAttention(shape, num_maps=1)
        self.ffn = ConvolutionalMLP(shape.dim, shape.hidden)
        self.ffn_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.drop_path = DropPath(shape.drop_path_rate)

    def forward(self, prior: Tensor, patches: Tensor, sizes: Sizes) -> Tensor:
        """Map the pyramid ``[B, 21*h*w/4, D]`` to the same shape."""
        points = reference_points(sizes, prior)
        prior = prior + self.attn(self.query_norm(prior), points, self.feat_norm(patches), sizes[1:2])
        mapped: Tensor = prior + self.drop_path(self.ffn(self.ffn_norm(prior), sizes))
        return mapped


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections."""

    def __init__(self, shape: AdapterShape, *, num_maps: int) -> None:
        super().__init__()
        self.num_heads, self.num_points, self.num_maps = shape.num_heads, shape.num_points, num_maps
        dim, num_heads, num_points = shape.dim, shape.num_heads, shape.num_points
        width = int(dim * shape.ratio)
        self.sampling_offsets = nn.Linear(dim, num_heads * num_maps * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_maps * num_points)
        self.value_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)

    def initialise(self) -> None:
        """Initialise sampling points as a star around the cell, one ray per head, with equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        angle = torch.arange(self.num_heads) * (2 * torch.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [heads, 2]
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        star = ray[:, None, None] * steps[None, None, :, None]  # [heads, 1, points, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(star.expand(-1, self.num_maps, -1, -1).flatten())

    def forward(self, query: Tensor, points: Tensor, features: Tensor, sizes: Sizes) -> Tensor:
        """Return what queries ``[B, Q, D]`` at ``points [Q, 2]`` sample from ``features [B, L, D]``."""
        batch, queries, _ = query.shape
        shape = (batch, queries, self.num_heads, self.num_maps, self.num_points)
        value = self.value_proj(features).reshape(batch, features.shape[1], self.num_heads, -1)
        weights = self.attention_weights(query).reshape(*shape[:3], -1).softmax(-1).reshape(shape)
        extent = torch.tensor([[w, h] for h, w in sizes], dtype=query.dtype, device=query.device)  # [maps, 2]
        offsets = self.sampling_offsets(query).reshape(*shape, 2) / extent[:, None]
        locations = points[:, None, None, None] + offsets  # [B, Q, heads, maps, points, 2]
        attended: Tensor = self.output_proj(deformable_attention(value, sizes, locations, weights))
        return attended


def deformable_attention(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample weighted points from several feature maps, bilinearly and with zeros outside of a map.

    Args:
        value: ``[B, L, heads, d]``, the maps concatenated, each row by row; ``L`` is the sum of ``h*w``.
        sizes: ``(h, w)`` of each map.
        locations: ``[B, Q, heads, maps, points, 2]``, x before y, from 0 to 1 between a map's edges.
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
        ``[L, 2]``, x before y, from 0 to 1 between the map's edges.
    """
    centres = []
    for rows, columns in sizes:
        y = (torch.arange(rows, dtype=like.dtype, device=like.device) + 0.5) / rows
        x = (torch.arange(columns, dtype=like.dtype, device=like.device) + 0.5) / columns
        centres.append(torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1))
    return torch.cat(centres)  # [L, 2]


class ConvolutionalMLP(nn.Module):
    """An MLP with a depthwise 3x3 convolution inside, shared by all maps of the pyramid."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, prior: Tensor, sizes: Sizes) -> Tensor:
        """Map ``[B, L, D]`` to ``[B, L, D]``."""
        hidden = self.fc1(prior).transpose(1, 2)  # [B, hidden, L]
        mixed = [
            self.dwconv["dwconv"](cells.reshape(*cells.shape[:2], *size)).flatten(2)
            for cells, size in zip(torch.split(hidden, [h * w for h, w in sizes], dim=2), sizes, strict=True)
        ]
        mapped: Tensor = self.fc2(F.gelu(torch.cat(mixed, dim=2).transpose(1, 2)))
        return mapped


def _conv_norm(dim_in: int, dim: int, *, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv2d(dim_in, dim, 3, stride, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU()
