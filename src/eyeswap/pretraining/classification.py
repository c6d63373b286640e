"""What a miniature backbone learns before it meets an LLM: its place in a miniature study is that of ImageNet-1K.

The labels of an image are the kinds and the colours of the things in it. The network up to its tap is trained from
scratch with a linear head on the mean token, and the head is thrown away. Training goes through two stages: small
close-ups of one thing, cheap and many, then whole scenes on the canvas that the VLM will use. Every family
goes through the same kinds of images with the same seed; `eyeswap.pretraining.recipes` says what differs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from eyeswap.backbones.base import VisionBackbone
from eyeswap.data.digits.scene import COLOURS, KINDS, Split, render, sample_scene
from eyeswap.geometry import ImageGeometry
from eyeswap.pretraining.recipes import Stage

NUM_CLASSES = len(KINDS) + len(COLOURS)
_IMAGE_SEED = 3  # the first number of every classification scene's generator: no scene is shared with other data


class Images(Dataset[tuple[Tensor, Tensor]]):
    """The images of a stage, drawn when asked for: ``[3, canvas, canvas]`` float32 and labels ``[NUM_CLASSES]``.

    A validation image shows exactly one thing, so that top-1 accuracy has its usual meaning.
    """

    def __init__(self, stage: Stage, geometry: ImageGeometry, split: Split, seed: int, count: int) -> None:
        self._stage, self._split, self._seed, self._count = stage, split, seed, count
        self._geometry = geometry.model_copy(update={"canvas": (stage.canvas, stage.canvas)})

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image and what it shows; the same index gives the same pixels."""
        canvas, is_validation = self._stage.canvas, self._split == "val"
        rng = np.random.default_rng([_IMAGE_SEED, self._seed, canvas, int(is_validation), index])
        if self._stage.close_up is not None:
            sides = self._stage.close_up
            scene = sample_scene(rng, self._split, num_things=1, size=(canvas, canvas), sides=sides)
        else:
            scene = sample_scene(rng, self._split, num_things=1 if is_validation else None)
        labels = torch.zeros(NUM_CLASSES, dtype=torch.bool)
        for thing in scene.things:
            labels[KINDS.index(thing.kind)] = True
            labels[len(KINDS) + list(COLOURS).index(thing.colour)] = True
        return self._geometry.place(render(scene))[0], labels


class Classifier(nn.Module):
    """A backbone with a norm, mean pooling over tokens, and a linear head."""

    def __init__(self, backbone: VisionBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.embed_dim)
        self.head = nn.Linear(backbone.embed_dim, NUM_CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to class logits ``[B, NUM_CLASSES]``: kinds first, then colours."""
        logits: Tensor = self.head(self.norm(self.backbone(pixel_values)).mean(1))
        return logits


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy against the mean of an image's labels, kinds and colours apart.

    Args:
        logits: ``[B, NUM_CLASSES]``.
        labels: ``[B, NUM_CLASSES]``, true where a label applies.
    """
    sizes = [len(KINDS), len(COLOURS)]
    parts = zip(logits.float().split(sizes, 1), labels.float().split(sizes, 1), strict=True)
    losses = [F.cross_entropy(part, target / target.sum(1, keepdim=True)) for part, target in parts]
    return torch.stack(losses).sum()


@torch.no_grad()
def top1_accuracy(model: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return how often the likeliest of the 13 kinds is in the image, as a share.

    Args:
        model: the classifier; it is left in the mode it was in.
        batches: images ``[B, 3, H, W]`` and labels ``[B, NUM_CLASSES]``.
    """
    was_training = model.training
    model.eval()
    hits = [labels.gather(1, model(pixels)[:, : len(KINDS)].argmax(1, keepdim=True)) for pixels, labels in batches]
    model.train(was_training)
    return float(torch.cat(hits).float().mean())
