"""A feature pyramid on one map, the same for every family: the tapped map, which is what a VLM would read.

Hierarchical families could offer the maps of earlier stages too. They are left out on purpose: what a dense objective
teaches then goes through the tap, and no arm has more to read from than another.
Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection (arXiv 2203.16527), section 3,
"simple feature pyramid".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from eyeswap.adaptation.recipe import NUM_GROUPS
from eyeswap.backbones.base import VisionBackbone


class FeaturePyramid(nn.Module):
    """A backbone and its pyramid: maps of one width at several scales of the tapped map.

    Args:
        backbone: the network, ending at its tap.
        width: channels of every level.
        scales: cells of each level per cell of the tapped map and axis; powers of two.
    """

    def __init__(self, backbone: VisionBackbone, width: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.levels = nn.ModuleList(_level(backbone.embed_dim, width, scale) for scale in scales)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Map ``[B, 3, H, W]`` to one map ``[B, width, h, w]`` per scale, fine to coarse."""
        grid = self.backbone.token_grid(*pixel_values.shape[-2:])
        tapped = self.backbone(pixel_values).transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
        return [level(tapped) for level in self.levels]


def _level(dim: int, width: int, scale: float) -> nn.Sequential:
    steps = round(abs(math.log2(scale)))
    if scale < 1:
        resized: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True) for _ in range(steps)]
    else:
        resized = []
        for step in range(steps):
            resized += [nn.GELU()] if step else []
            resized.append(nn.ConvTranspose2d(width if step else dim, width, 2, 2))
    last = width if scale > 1 else dim
    return nn.Sequential(*resized, *_conv_norm(last, width, 1), *_conv_norm(width, width, 3))


def _conv_norm(dim: int, width: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(dim, width, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(NUM_GROUPS, width)


def branch(width: int, depth: int) -> nn.Sequential:
    """Return ``depth`` convolutions, each with norm and ReLU, on maps ``[B, width, h, w]``."""
    return nn.Sequential(*(layer for _ in range(depth) for layer in (*_conv_norm(width, width, 3), nn.ReLU())))
