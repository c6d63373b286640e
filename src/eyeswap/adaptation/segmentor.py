"""A light segmentor: the levels of the pyramid, brought to the finest grid and added, score every category.

Source: Kirillov et al., Panoptic Feature Pyramid Networks (arXiv 1901.02446), section 3.1, the semantic branch, with as
many convolutions on every level and bilinear resizing in one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.adaptation.pyramid import FeaturePyramid, branch
from eyeswap.adaptation.recipe import AdaptationRecipe
from eyeswap.adaptation.samples import Targets
from eyeswap.backbones.base import VisionBackbone
from eyeswap.data.formats.ade20k import IGNORED


class Segmentor(nn.Module):
    """A backbone with pyramid and segmentation head; `loss` trains all of it."""

    def __init__(self, backbone: VisionBackbone, num_classes: int, recipe: AdaptationRecipe) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(backbone, recipe.width, recipe.scales)
        self.branches = nn.ModuleList(branch(recipe.width, recipe.head_depth) for _ in recipe.scales)
        self.score = nn.Conv2d(recipe.width, num_classes, 1)

    @property
    def backbone(self) -> VisionBackbone:
        """The backbone, without pyramid and head."""
        return self.pyramid.backbone

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to float32 logits ``[B, C, h, w]`` on the finest grid of the pyramid."""
        maps = [layers(level) for layers, level in zip(self.branches, self.pyramid(pixel_values), strict=True)]
        finest = maps[0]
        for coarser in maps[1:]:
            finest = finest + F.interpolate(coarser, finest.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.score(finest)
        return logits.float()

    def loss(self, pixel_values: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Return the mean cross-entropy over the labelled pixels of a batch ``[B, 3, H, W]``."""
        labels = torch.stack([each.labels for each in targets if each.labels is not None]).long()  # [B, H, W]
        logits = F.interpolate(self(pixel_values), labels.shape[-2:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the logits ``[C, h, w]`` of each image of a batch ``[B, 3, H, W]``."""
        return list(self(pixel_values))
