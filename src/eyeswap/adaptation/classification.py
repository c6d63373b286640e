"""Pretrain a miniature backbone by classification: its place in a miniature study is that of ImageNet-1K.

An image shows one or more things; the labels are the (colour, kind) pairs that are present. The network up to its
tap is trained from scratch with a linear head on the mean token, and the head is thrown away. Every family goes
through the same data, order, optimiser, steps and seed: the recipe is matched, only the network differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.data.digits.render import render
from eyeswap.data.digits.scene import COLOURS, KINDS, Split, sample_scene
from eyeswap.geometry import ImageGeometry

NUM_CLASSES = len(COLOURS) * len(KINDS)
_IMAGE_SEED = 3  # the first number of every classification scene's generator: no scene is shared with other data
_VALIDATION_IMAGES = 2000
_WORKERS = 2


@dataclass(frozen=True)
class ClassificationRecipe:
    """How every miniature backbone is made; the defaults made the shipped ones."""

    num_images: int = 20_000
    num_epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    seed: int = 7


def make_image(
    seed: int, split: Split, geometry: ImageGeometry, index: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """Return one image as the backbone sees it, ``[3, H, W]``, and its labels ``[NUM_CLASSES]``.

    A training image has one to six things, a validation image exactly one, so that top-1 accuracy has its usual meaning.
    """
    rng = np.random.default_rng([_IMAGE_SEED, seed, int(split == "val"), index])
    scene = sample_scene(rng, split, num_things=1 if split == "val" else None)
    labels = np.zeros(NUM_CLASSES, bool)
    for thing in scene.things:
        labels[list(COLOURS).index(thing.colour) * len(KINDS) + KINDS.index(thing.kind)] = True
    pixels, _ = geometry.place(render(scene))
    return pixels.numpy().astype(np.float16), labels


def _images(seed: int, split: Split, geometry: ImageGeometry, count: int) -> tuple[Tensor, Tensor]:
    """Make ``count`` images in parallel: ``[count, 3, H, W]`` float16 and labels ``[count, NUM_CLASSES]``."""
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as workers:
        made = list(workers.map(partial(make_image, seed, split, geometry), range(count), chunksize=200))
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in made]))
    return pixels, torch.from_numpy(np.stack([labels for _, labels in made]))


class Classifier(nn.Module):
    """A backbone with a norm, mean pooling over tokens, and a linear head."""

    def __init__(self, backbone: VisionBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.embed_dim)
        self.head = nn.Linear(backbone.embed_dim, NUM_CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to class logits ``[B, NUM_CLASSES]``."""
        logits: Tensor = self.head(self.norm(self.backbone(pixel_values)).mean(1))
        return logits


def pretrain_backbone(
    backbone: VisionBackbone,
    geometry: ImageGeometry,
    recipe: ClassificationRecipe,
    report: Callable[[int, float], None],
) -> dict[str, float]:
    """Train a backbone in place.

    Args:
        backbone: a freshly initialised network that ends at its tap.
        geometry: how an image becomes the network's input.
        recipe: data and schedule.
        report: called after every step with the step number and the loss.

    Returns:
        ``top1_accuracy`` on single-thing images with unseen handwriting, and the last ``train_loss``.
    """
    pixels, labels = _images(recipe.seed, "train", geometry, recipe.num_images)
    torch.manual_seed(recipe.seed)
    model = Classifier(backbone).train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.98))
    steps_per_epoch = recipe.num_images // recipe.batch_size
    num_steps = steps_per_epoch * recipe.num_epochs
    rng = np.random.default_rng(recipe.seed)
    recent: list[float] = []
    for step in range(num_steps):
        if step % steps_per_epoch == 0:
            order = torch.from_numpy(rng.permutation(recipe.num_images))
        start = (step % steps_per_epoch) * recipe.batch_size
        rows = order[start : start + recipe.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step / num_steps, recipe.warmup_fraction)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels[rows].float())
        targets = labels[rows].float()
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum") / len(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-99:], float(loss.detach())]
        report(step, recent[-1])
    return {"top1_accuracy": _top1(model.eval(), geometry, recipe), "train_loss": float(np.mean(recent))}


@torch.no_grad()
def _top1(model: Classifier, geometry: ImageGeometry, recipe: ClassificationRecipe) -> float:
    pixels, labels = _images(recipe.seed, "val", geometry, _VALIDATION_IMAGES)
    best = torch.cat([model(part.float()).argmax(1) for part in pixels.split(recipe.batch_size)])
    return float(labels[torch.arange(len(labels)), best].float().mean())


def _schedule(done: float, warmup: float) -> float:
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
