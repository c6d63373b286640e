"""ViT: the plain vision transformer, tapped before its last block.

Keys and arithmetic are those of timm's ``vit_*_patch16_224`` (augreg) and ``deit_*`` models. Unusual: the tap is the
output of the second-to-last block, without the final norm and the class token; blocks after the tap are not built.
Source: Dosovitskiy et al., An Image is Worth 16x16 Words (2021); Steiner et al., How to train your ViT?
(2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import ShapeError, SpecError

_HIDDEN_BYTES = 8 << 20  # of an MLP's hidden layer that are computed at a time on a CPU, to stay in its cache


class ViT(VisionBackbone):
    """A plain vision transformer, truncated after its tap.

    Args:
        img_size: side of the square image that the position embedding is built for; it is resized for other sizes.
        patch_size: side of a patch in pixels.
        embed_dim: token width ``D``.
        depth: number of blocks of the complete network.
        num_heads: attention heads.
        mlp_ratio: MLP width relative to ``embed_dim``.
        tap: block whose output is read; negative counts from the end, -2 is the second-to-last.
        final_norm: whether the final norm follows the tap.
        class_token: whether there is a class token (it is dropped from the output).

    Raises:
        SpecError: if the network has no such block.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        tap: int = -2,
        final_norm: bool = False,
        class_token: bool = True,
    ) -> None:
        super().__init__()
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.tap = block_index(tap, depth)
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + class_token, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(self.tap + 1))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if final_norm else nn.Identity()
        later = tuple(f"blocks.{index}." for index in range(self.tap + 1, depth))
        self.beyond_tap = (*later, "head.") if final_norm else (*later, "norm.", "head.")
        initialise(self)

    def sequence(self, pixel_values: Tensor) -> Tensor:
        """Return the tokens at the tap, class token first: ``[B, 1 + h*w, D]``."""
        rows, columns = self.token_grid(*pixel_values.shape[-2:])
        tokens = self.patch_embed(pixel_values).flatten(1, 2)  # [B, N, D]
        prefix = 0
        if self.cls_token is not None:
            prefix = 1
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)  # [B, 1+N, D]
        tokens = tokens + resize_positions(self.pos_embed, prefix, (rows, columns), antialias=True)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``, without the class token."""
        grid = self.token_grid(*pixel_values.shape[-2:])
        tokens = self.sequence(pixel_values)[:, int(self.cls_token is not None) :]  # [B, N, D]
        return tokens.reshape(len(tokens), *grid, self.embed_dim)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches.

        Raises:
            ShapeError: if a side is not a multiple of the patch size.
        """
        return patch_grid(height, width, self.patch_size)


class PatchEmbed(nn.Module):
    """Split the image into patches and project each to a token."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, h, w, D]``."""
        features: Tensor = self.proj(pixel_values)
        return features.permute(0, 2, 3, 1)  # [B, h, w, D]


class Attention(nn.Module):
    """Multi-head self-attention with a joint projection of queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, N, D]`` to ``[B, N, D]``."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, d]
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # [B, N, D]
        return projected


class MLP(nn.Module):
    """Two linear layers with a GELU in between, exact by default."""

    def __init__(self, dim: int, hidden: int, *, approximate: str = "none") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU(approximate=approximate)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``; on a CPU in chunks, so that the hidden layer stays in its cache."""
        if tokens.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._mapped(tokens)
        rows = tokens.flatten(0, -2)
        at_once = max(1, _HIDDEN_BYTES // (self.fc1.out_features * rows.element_size()))
        if len(rows) <= at_once:
            return self._mapped(tokens)
        return torch.cat([self._mapped(part) for part in rows.split(at_once)]).view_as(tokens)

    def _mapped(self, tokens: Tensor) -> Tensor:
        mapped: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return mapped


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, N, D]`` to ``[B, N, D]``."""
        tokens = tokens + self.attn(self.norm1(tokens))
        mapped: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mapped


def block_index(tap: int, depth: int) -> int:
    """Return the index of a block, counted from the start.

    Raises:
        SpecError: if there is no such block.
    """
    if not -depth <= tap < depth:
        raise SpecError(f"tap: block {tap} does not exist in a network of {depth} blocks; use {-depth}..{depth - 1}")
    return tap % depth


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Return the rows and columns of patches of an image.

    Raises:
        ShapeError: if a side is not a positive multiple of the patch size.
    """
    if height % patch_size or width % patch_size or not height or not width:
        raise ShapeError(f"image of {height}x{width} pixels: both sides must be multiples of {patch_size}")
    return height // patch_size, width // patch_size


def resize_positions(
    positions: Tensor, prefix: int, grid: tuple[int, int], *, antialias: bool, built: tuple[int, int] | None = None
) -> Tensor:
    """Resize a position embedding to a token grid by bicubic interpolation.

    Args:
        positions: ``[1, prefix + s*s, D]``, or ``[1, prefix + rows*columns, D]`` of the grid ``built``.
        prefix: number of leading rows (class token) that are kept unchanged.
        grid: rows and columns wanted.
        antialias: whether to low-pass filter when shrinking (timm does, detectron2 does not).
        built: rows and columns of the embedding; a square by default.

    Returns:
        ``[1, prefix + rows*columns, D]``.
    """
    side = round((positions.shape[1] - prefix) ** 0.5)
    built = built or (side, side)
    if grid == built:
        return positions
    raster = positions[:, prefix:].reshape(1, *built, -1).permute(0, 3, 1, 2)  # [1, D, s, s]
    raster = raster.to(torch.promote_types(raster.dtype, torch.float32))  # torch cannot resize bfloat16 on a CPU
    raster = F.interpolate(raster, grid, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([positions[:, :prefix], raster.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def initialise(network: nn.Module) -> None:
    """Initialise a transformer: truncated normal weights of std 0.02, zero biases."""
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            nn.init.trunc_normal_(parameter, std=1e-6 if name == "cls_token" else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
