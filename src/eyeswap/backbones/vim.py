"""Vim: a plain stack of bidirectional Mamba mixers over the patches, with the class token in the middle.

Keys and arithmetic are those of the official ``models_mamba.py`` (hustvl/Vim) in the released variant: class token in
the middle, bimamba v2, absolute positions. Unusual: there is no MLP; the class token is inserted at index ``n // 2`` of
``n`` patches before the position table is added, so row ``n // 2`` of the table belongs to it; the residual stream
stays in float32 whatever the dtype of the weights; the two directions share only ``in_proj`` and ``out_proj``, and
their sum is halved. The head reads only the class token, so the last block's outputs at patches were never trained: the
tap is the output of the second-to-last block, without the final norm and the class token.
Source: Zhu et al., Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model
(arXiv 2401.09417).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.vit import block_index, resize_positions
from eyeswap.errors import ShapeError
from eyeswap.ops.layers import init_linear, init_state_matrix, init_step_bias
from eyeswap.ops.projected_scan import bidirectional_scan


class Vim(VisionBackbone):
    """Vim, truncated after its tap.

    Args:
        img_size: side, or height and width, of the image that the position table is built for; it is resized for
            others.
        patch_size: side of a patch in pixels.
        stride: pixels from one patch to the next; smaller than ``patch_size`` in the fine-tuned variants.
        embed_dim: token width ``D``.
        depth: number of blocks of the complete network.
        d_state: state size S of the scans.
        expand: width of the scans relative to ``embed_dim``.
        d_conv: kernel size of the convolution before a scan.
        tap: block whose output is read; negative counts from the end, -2 is the second-to-last.
        final_norm: whether the final norm follows the tap.

    Raises:
        SpecError: if the network has no such block.
    """

    foreign = MappingProxyType(
        {"rope.freqs_": "the older Vim with a leading class token and rotary positions is not supported"}
    )

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        tap: int = -2,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim, self.patch_size, self.stride = embed_dim, patch_size, stride
        self.tap = block_index(tap, depth)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.built_grid = self.token_grid(height, width)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, embed_dim, patch_size, stride)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.built_grid) + 1, embed_dim))
        self.layers = nn.ModuleList(Block(embed_dim, d_state, expand, d_conv) for _ in range(self.tap + 1))
        self.norm_f = RMSNorm(embed_dim) if final_norm else None
        later = tuple(f"layers.{index}." for index in range(self.tap + 1, depth))
        self.beyond_tap = (*later, "head.") if final_norm else (*later, "norm_f.", "head.")
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)

    def sequence(self, pixel_values: Tensor) -> Tensor:
        """Return the stream at the tap, class token in the middle: ``[B, N + 1, D]``."""
        rows, columns = self.token_grid(*pixel_values.shape[-2:])
        patches = self.patch_embed["proj"](pixel_values).flatten(2).transpose(1, 2)  # [B, N, D]
        middle = rows * columns // 2
        class_token = self.cls_token.expand(len(patches), -1, -1)
        tokens = torch.cat([patches[:, :middle], class_token, patches[:, middle:]], dim=1)  # [B, N+1, D]
        stream = tokens + self._positions((rows, columns))
        dtype = stream.dtype
        stream = stream.to(torch.promote_types(dtype, torch.float32))
        for block in self.layers:
            stream = block(stream)
        return (stream if self.norm_f is None else self.norm_f(stream)).to(dtype)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``, without the class token."""
        rows, columns = self.token_grid(*pixel_values.shape[-2:])
        sequence, middle = self.sequence(pixel_values), rows * columns // 2
        patches = torch.cat([sequence[:, :middle], sequence[:, middle + 1 :]], dim=1)  # [B, N, D]
        return patches.view(len(patches), rows, columns, self.embed_dim)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches.

        Raises:
            ShapeError: if patches do not cover the image exactly.
        """
        patch, stride = self.patch_size, self.stride
        if min(height, width) < patch or (height - patch) % stride or (width - patch) % stride:
            raise ShapeError(
                f"image of {height}x{width} pixels: both sides must be {patch} and a multiple of {stride} more"
            )
        return (height - patch) // stride + 1, (width - patch) // stride + 1

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position table for a grid, ``[1, N + 1, D]``; the middle row stays that of the class token.

        The official function keeps row 0 and resizes the others, including the class token's, as if they were patches.
        That is right only for a leading class token.
        """
        if grid == self.built_grid:
            return self.pos_embed
        old, new = math.prod(self.built_grid) // 2, math.prod(grid) // 2
        patches = torch.cat([self.pos_embed[:, :old], self.pos_embed[:, old + 1 :]], dim=1)
        resized = resize_positions(patches, 0, grid, antialias=False, built=self.built_grid)
        return torch.cat([resized[:, :new], self.pos_embed[:, old : old + 1], resized[:, new:]], dim=1)


class Block(nn.Module):
    """A pre-norm mixer with a residual connection; the residual stream is at least float32."""

    def __init__(self, dim: int, d_state: int, expand: int, d_conv: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.mixer = Mixer(dim, d_state, expand, d_conv)

    def forward(self, stream: Tensor) -> Tensor:
        """Map ``[B, L, D]`` to ``[B, L, D]``."""
        advanced: Tensor = stream + self.mixer(self.norm(stream))
        return advanced


class RMSNorm(nn.Module):
    """RMSNorm computed in the stream's precision and returned in the weight's."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, stream: Tensor) -> Tensor:
        """Map ``[B, L, D]`` to ``[B, L, D]``."""
        normed = F.rms_norm(stream, self.weight.shape, self.weight.to(stream.dtype), self.eps)
        return normed.to(self.weight.dtype)


class Mixer(nn.Module):
    """The bidirectional Mamba mixer: project, convolve and scan each way, add, halve, gate, project."""

    def __init__(self, dim: int, d_state: int, expand: int, d_conv: int) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.reach = d_conv - 1
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        # Names with _b belong to the backward direction.
        self.conv1d, self.conv1d_b = (nn.Conv1d(inner, inner, d_conv, groups=inner) for _ in range(2))
        self.x_proj, self.x_proj_b = (nn.Linear(inner, rank + 2 * d_state, bias=False) for _ in range(2))
        self.dt_proj, self.dt_proj_b = (nn.Linear(rank, inner) for _ in range(2))
        self.A_log, self.A_b_log = (nn.Parameter(torch.empty(inner, d_state)) for _ in range(2))
        self.D, self.D_b = (nn.Parameter(torch.ones(inner)) for _ in range(2))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._initialise(rank)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, L, D]`` to ``[B, L, D]``."""
        x, z = self.in_proj(tokens).chunk(2, dim=2)  # [B, L, inner] each
        y = bidirectional_scan(
            self._convolve(x),
            torch.stack([self.x_proj.weight, self.x_proj_b.weight]),
            torch.stack([self.dt_proj.weight, self.dt_proj_b.weight]),
            torch.stack([self.dt_proj.bias, self.dt_proj_b.bias]),
            torch.stack([self.A_log, self.A_b_log]),
            torch.stack([self.D, self.D_b]),
        )  # [B, L, inner]
        mixed: Tensor = self.out_proj(y * F.silu(z) / 2)
        return mixed

    def _convolve(self, x: Tensor) -> Tensor:
        """Return the input of each scan, ``[B, 2, L, inner]``, by convolutions that are causal in its direction.

        The backward convolution runs over the unreversed sequence with a flipped kernel. Both are written as 2-D
        convolutions of one column, which read channels-last memory in place; ``Conv1d`` would transpose it every time.
        """
        length = x.shape[1]
        cells = x[:, :, None].permute(0, 3, 1, 2)  # [B, inner, L, 1]
        convolved = []
        for conv, flipped, first in ((self.conv1d, False, 0), (self.conv1d_b, True, self.reach)):
            kernel = (conv.weight.flip(2) if flipped else conv.weight)[..., None]  # [inner, 1, d_conv, 1]
            padded = F.conv2d(cells, kernel, conv.bias, padding=(self.reach, 0), groups=len(kernel))
            convolved.append(padded[:, :, first : first + length, 0].transpose(1, 2))  # [B, L, inner]
        return F.silu(torch.stack(convolved, dim=1))

    def _initialise(self, rank: int) -> None:
        self.apply(init_linear)
        for step in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(step.weight, -(rank**-0.5), rank**-0.5)
            init_step_bias(step.bias)
        for matrix in (self.A_log, self.A_b_log):
            init_state_matrix(matrix)
