"""A classifier, the control of the dense objectives: the same images and steps, but only what is in an image is learnt.

Without it, an adapted backbone differs from the original in its objective and in having been trained further.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.adaptation.recipe import AdaptationRecipe
from eyeswap.adaptation.samples import Targets
from eyeswap.backbones.base import VisionBackbone


class Classifier(nn.Module):
    """A backbone with a LayerNorm, mean pooling over tokens and a linear head; `loss` trains all of it."""

    def __init__(self, backbone: VisionBackbone, num_classes: int, _recipe: AdaptationRecipe) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.embed_dim)
        self.score = nn.Linear(backbone.embed_dim, num_classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to float32 logits ``[B, C]``."""
        logits: Tensor = self.score(self.norm(self.backbone(pixel_values)).mean(1))
        return logits.float()

    def loss(self, pixel_values: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Return the cross-entropy of a batch ``[B, 3, H, W]`` against equal shares of each image's categories."""
        logits = self(pixel_values)
        shares = torch.zeros_like(logits)
        for row, each in enumerate(targets):
            present = each.classes.unique()
            shares[row, present] = 1 / max(1, len(present))
        return F.cross_entropy(logits, shares)

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the logits ``[C]`` of each image of a batch ``[B, 3, H, W]``."""
        return list(self(pixel_values))
