"""Whole networks with their ImageNet classifier, to compare with official files; eyeswap itself cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from eyeswap.backbones.spatial_mamba import SpatialMamba
from eyeswap.backbones.vim import Vim
from eyeswap.backbones.vmamba import VMamba
from eyeswap.ops.layers import init_linear


class VMambaClassifier(VMamba):
    """The whole network with its ImageNet classifier, ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""

    def __init__(self, num_classes: int = 1000, depths: Sequence[int] = (2, 2, 8, 2), **network: Any) -> None:
        super().__init__(depths=depths, tap=(len(depths), -1), norm="none", **network)
        self.classifier = nn.ModuleDict(
            {"norm": nn.LayerNorm(self.embed_dim), "head": nn.Linear(self.embed_dim, num_classes)}
        )
        self.beyond_tap = ("outnorm",)
        self.classifier.apply(init_linear)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""
        features = self.classifier["norm"](self.feature_map(pixel_values))  # [B, h, w, D]
        logits: Tensor = self.classifier["head"](features.mean((1, 2)))
        return logits


class VimClassifier(Vim):
    """The whole network with its ImageNet classifier, ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""

    def __init__(self, num_classes: int = 1000, **network: Any) -> None:
        super().__init__(tap=-1, final_norm=True, **network)
        self.head = nn.Linear(self.embed_dim, num_classes)
        self.beyond_tap = ()
        init_linear(self.head)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.head(self.class_token(pixel_values))
        return logits

    def class_token(self, pixel_values: Tensor) -> Tensor:
        """Return the class token behind the final norm, ``[B, D]``."""
        sequence = self.sequence(pixel_values)
        return sequence[:, (sequence.shape[1] - 1) // 2]


class SpatialMambaClassifier(SpatialMamba):
    """The whole network with its ImageNet classifier, ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""

    def __init__(self, num_classes: int = 1000, depths: Sequence[int] = (2, 4, 8, 4), **network: Any) -> None:
        super().__init__(depths=depths, tap=(len(depths), -1), norm="none", **network)
        self.norm = nn.LayerNorm(self.embed_dim)
        self.head = nn.Linear(self.embed_dim, num_classes)
        self.beyond_tap = ("outnorm",)
        init_linear(self.head)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.head(self.normed_map(pixel_values).mean((1, 2)))
        return logits

    def normed_map(self, pixel_values: Tensor) -> Tensor:
        """Return the last stage behind the final norm, ``[B, h, w, D]``."""
        normed: Tensor = self.norm(self.feature_map(pixel_values))
        return normed
