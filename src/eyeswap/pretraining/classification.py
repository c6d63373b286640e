"""Pretrain a miniature backbone by classification: its place in a miniature study is that of ImageNet-1K.

The labels of an image are the kinds and the colours of the things in it. The network up to its tap is trained from
scratch with a linear head on the mean token, and the head is thrown away. Training goes through two stages: small
close-ups of one thing, cheap and many, then whole scenes on the canvas that the VLM will use. Every family
goes through the same images, order, optimiser, steps and seed: the recipe is matched, only the network differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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

NUM_CLASSES = len(KINDS) + len(COLOURS)
_IMAGE_SEED = 3  # the first number of every classification scene's generator: no scene is shared with other data
_VALIDATION_IMAGES = 2000
_WORKERS = 2


@dataclass(frozen=True)
class Stage:
    """One stage of pretraining.

    Attributes:
        canvas: side of the square canvas in pixels.
        close_up: whether an image shows one thing that fills much of it, or a whole scene.
        num_images: distinct images.
        num_epochs: passes over them.
        batch_size: images in one step.
        learning_rate: peak of a warm-up and half-cosine schedule.
    """

    canvas: int
    close_up: bool
    num_images: int
    num_epochs: int
    batch_size: int
    learning_rate: float

    @property
    def num_steps(self) -> int:
        """Steps of the whole stage."""
        return self.num_images // self.batch_size * self.num_epochs


@dataclass(frozen=True)
class ClassificationRecipe:
    """How every miniature backbone is made; the defaults made the shipped ones."""

    stages: tuple[Stage, ...] = (
        Stage(canvas=64, close_up=True, num_images=24_000, num_epochs=4, batch_size=64, learning_rate=1e-3),
        Stage(canvas=128, close_up=False, num_images=8_000, num_epochs=2, batch_size=32, learning_rate=5e-4),
    )
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    seed: int = 7

    @property
    def num_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.num_steps for stage in self.stages)


def make_image(
    seed: int, stage: Stage, geometry: ImageGeometry, split: Split, index: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """Return one image as the backbone sees it, ``[3, canvas, canvas]``, and its labels ``[NUM_CLASSES]``.

    A validation image shows exactly one thing, so that top-1 accuracy has its usual meaning.
    """
    rng = np.random.default_rng([_IMAGE_SEED, seed, stage.canvas, int(split == "val"), index])
    if stage.close_up:
        scene = sample_scene(rng, split, num_things=1, size=(stage.canvas, stage.canvas), sides=(0.36, 0.9))
    else:
        scene = sample_scene(rng, split, num_things=1 if split == "val" else None)
    labels = np.zeros(NUM_CLASSES, bool)
    for thing in scene.things:
        labels[KINDS.index(thing.kind)] = True
        labels[len(KINDS) + list(COLOURS).index(thing.colour)] = True
    placed = geometry.model_copy(update={"canvas": (stage.canvas, stage.canvas)})
    return placed.place(render(scene))[0].numpy().astype(np.float16), labels


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


def pretrain_backbone(
    backbone: VisionBackbone,
    geometry: ImageGeometry,
    recipe: ClassificationRecipe,
    report: Callable[[int, float], None],
) -> dict[str, float]:
    """Train a backbone in place.

    Args:
        backbone: a freshly initialised network that ends at its tap.
        geometry: how an image becomes the network's input; each stage replaces its canvas.
        recipe: stages and schedule.
        report: called after every step with the step number and the loss.

    Returns:
        ``top1_accuracy`` over the 13 kinds on single-thing images with unseen handwriting, and the mean
        ``train_loss`` of the last 100 steps.
    """
    torch.manual_seed(recipe.seed)
    model = Classifier(backbone).train()
    recent: list[float] = []
    step = 0
    for stage in recipe.stages:
        for loss in _train_stage(model, stage, geometry, recipe):
            recent = [*recent[-99:], loss]
            report(step, loss)
            step += 1
    accuracy = _top1(model.eval(), recipe.stages[-1], geometry, recipe.seed)
    return {"top1_accuracy": accuracy, "train_loss": float(np.mean(recent))}


def _train_stage(
    model: Classifier, stage: Stage, geometry: ImageGeometry, recipe: ClassificationRecipe
) -> Iterator[float]:
    pixels, labels = _images(recipe.seed, stage, geometry, "train", stage.num_images)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, stage.learning_rate, betas=(0.9, 0.98))
    rng = np.random.default_rng(recipe.seed)
    order = np.concatenate([rng.permutation(stage.num_images) for _ in range(stage.num_epochs)])
    for step in range(stage.num_steps):
        rows = torch.from_numpy(order[step * stage.batch_size : (step + 1) * stage.batch_size])
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _schedule(step / stage.num_steps, recipe.warmup_fraction)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels[rows].float())
        loss = classification_loss(logits, labels[rows])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())


def _images(seed: int, stage: Stage, geometry: ImageGeometry, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Make ``count`` images in parallel: ``[count, 3, H, W]`` float16 and labels ``[count, NUM_CLASSES]``."""
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as workers:
        made = list(workers.map(partial(make_image, seed, stage, geometry, split), range(count), chunksize=200))
    return torch.from_numpy(np.stack([image for image, _ in made])), torch.from_numpy(
        np.stack([row for _, row in made])
    )


@torch.no_grad()
def _top1(model: Classifier, stage: Stage, geometry: ImageGeometry, seed: int) -> float:
    pixels, labels = _images(seed, stage, geometry, "val", _VALIDATION_IMAGES)
    best = torch.cat([model(part.float())[:, : len(KINDS)].argmax(1) for part in pixels.split(64)])
    return float(labels[torch.arange(len(labels)), best].float().mean())


def _schedule(done: float, warmup: float) -> float:
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
