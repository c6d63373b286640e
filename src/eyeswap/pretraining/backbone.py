"""Pretrain a miniature backbone on classification; it takes the place of ImageNet-1K pretraining in a miniature study.

The labels of an image are the kinds and colours of the objects in it. The network up to its tap is trained from scratch
with a linear head on the mean token, and the head is discarded. Training first shows close-ups of one object, which are
small and cheap, then whole scenes on the canvas that the VLM will use. All families see the same kinds of images under
the same seed; `eyeswap.pretraining.recipes` holds what differs.

The complete state of a run is saved to one file from time to time, replaced atomically; a killed run resumes from it
and ends with the same weights.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from eyeswap.backbones.base import VisionBackbone
from eyeswap.data.digits.scene import COLOURS, KINDS, Split, render, sample_scene
from eyeswap.errors import CheckpointError
from eyeswap.files import atomic_path, digest, read_torch_weights
from eyeswap.geometry import ImageGeometry
from eyeswap.pretraining.recipes import ClassificationRecipe, Stage

VALIDATION_IMAGES = 2000
PROGRESS_IMAGES = 400  # of the validation images, for accuracy during training
_SECONDS_BETWEEN_SAVES = 60.0
NUM_CLASSES = len(KINDS) + len(COLOURS)
_IMAGE_SEED = 3  # starts the seed of every classification scene, so that none is shared with other data


class BackbonePretraining:
    """One run of a recipe.

    Attributes:
        model: the backbone with its head, trained in place.
        step: completed steps over all stages.
        curve: ``(step, top-1 accuracy)`` measured during training.
        seconds: training time, including that of earlier processes.
    """

    def __init__(
        self,
        backbone: VisionBackbone,
        geometry: ImageGeometry,
        recipe: ClassificationRecipe,
        *,
        saved: Path | None = None,
        workers: int = 0,
    ) -> None:
        """Start a run, or resume it from ``saved``.

        Args:
            backbone: a freshly initialised network that ends at its tap.
            geometry: how an image becomes the network's input; each stage replaces its canvas.
            recipe: stages and schedule.
            saved: file to save to and resume from; by default nothing is saved.
            workers: processes that render images; 0 renders them in this process.

        Raises:
            CheckpointError: if ``saved`` belongs to another recipe or is damaged.
        """
        torch.manual_seed(recipe.seed)
        self.model = Classifier(backbone).train()
        _initialise(self.model, recipe)
        self.recipe, self._geometry, self._saved, self._workers = recipe, geometry, saved, workers
        self.step, self.curve, self.seconds = 0, list[tuple[int, float]](), 0.0
        self._losses: list[float] = []
        self._optimizer: dict[str, Any] | None = None  # optimiser state of a resumed stage
        if saved is not None and saved.exists():
            self._load(saved)

    def run(
        self,
        report: Callable[[int, float], None] = lambda step, loss: None,
        measured: Callable[[int, float], None] = lambda step, accuracy: None,
    ) -> dict[str, float]:
        """Train to the end.

        Args:
            report: called after every step with the number of completed steps and the loss.
            measured: called after every validation with the number of completed steps and the accuracy.

        Returns:
            ``top1_accuracy`` over the 13 kinds on single-object images with unseen handwriting, and the mean
            ``train_loss`` of the last 100 steps.
        """
        first = 0
        for stage in self.recipe.stages:
            if self.step < first + stage.num_steps:
                self._train(stage, first, report, measured)
            first += stage.num_steps
        images = self._images(self.recipe.stages[-1], "val", VALIDATION_IMAGES)
        accuracy = top1_accuracy(self.model.eval(), DataLoader(images, batch_size=50))
        return {"top1_accuracy": accuracy, "train_loss": float(np.mean(self._losses))}

    @property
    def accuracy_so_far(self) -> str:
        """The latest measured accuracy, as text."""
        return f"top-1 {100 * self.curve[-1][1]:.0f}% at step {self.curve[-1][0]}" if self.curve else "top-1 unknown"

    def _train(
        self,
        stage: Stage,
        first: int,
        report: Callable[[int, float], None],
        measured: Callable[[int, float], None],
    ) -> None:
        optimizer = _optimizer(self.model, stage, self.recipe)
        if self._optimizer is not None:
            optimizer.load_state_dict(self._optimizer)
            self._optimizer = None
        started = time.monotonic()
        for step, (pixels, labels) in self._batches(stage, self.step - first):
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * _schedule(step / stage.num_steps, self.recipe.warmup_fraction)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
                logits = self.model(pixels)
            loss = classification_loss(logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            self.step = first + step + 1
            self._losses = [*self._losses[-99:], float(loss.detach())]
            report(self.step, self._losses[-1])
            if self.step % self.recipe.evaluate_every == 0:
                self.curve.append((self.step, top1_accuracy(self.model, self._progress_batches)))
                measured(*self.curve[-1])
            if time.monotonic() - started > _SECONDS_BETWEEN_SAVES:
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                self._save(optimizer.state_dict() if step + 1 < stage.num_steps else None)
        self.seconds += time.monotonic() - started
        self._save(None)

    def _batches(self, stage: Stage, first: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Yield the steps of a stage from step ``first`` on, each with its images and labels."""
        rng = np.random.default_rng(self.recipe.seed)
        order = np.concatenate([rng.permutation(stage.num_images) for _ in range(stage.num_epochs)])
        rows = order[first * stage.batch_size : stage.num_steps * stage.batch_size].tolist()
        images = self._images(stage, "train", stage.num_images)
        loader = DataLoader(images, stage.batch_size, sampler=rows, num_workers=self._workers)
        return enumerate(loader, start=first)

    @functools.cached_property
    def _progress_batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(DataLoader(self._images(self.recipe.stages[-1], "val", PROGRESS_IMAGES), batch_size=50))

    def _images(self, stage: Stage, split: Split, count: int) -> Images:
        return Images(stage, self._geometry, split, self.recipe.seed, count)

    def _save(self, optimizer: dict[str, Any] | None) -> None:
        if self._saved is None:
            return
        state = {
            "recipe": digest(asdict(self.recipe)),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": optimizer,
            "losses": self._losses,
            "curve": self.curve,
            "seconds": self.seconds,
        }
        with atomic_path(self._saved) as temporary:
            torch.save(state, temporary)

    def _load(self, saved: Path) -> None:
        state = read_torch_weights(saved)
        if state["recipe"] != digest(asdict(self.recipe)):
            raise CheckpointError(f"{saved}: belongs to a run with another recipe; delete it to start over")
        self.model.load_state_dict(state["model"])
        self.step, self._losses, self.seconds = state["step"], state["losses"], state["seconds"]
        self.curve = [(step, accuracy) for step, accuracy in state["curve"]]
        self._optimizer = state["optimizer"]


def _initialise(model: Classifier, recipe: ClassificationRecipe) -> None:
    if recipe.initialisation == "xavier":
        for module in model.backbone.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def _optimizer(model: Classifier, stage: Stage, recipe: ClassificationRecipe) -> torch.optim.AdamW:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, stage.learning_rate, betas=recipe.betas, fused=True)


def _schedule(done: float, warmup: float) -> float:
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images of a stage, rendered on demand: ``[3, canvas, canvas]`` float32 and labels ``[NUM_CLASSES]``.

    A validation image shows exactly one object, so that top-1 accuracy has its usual meaning.
    """

    def __init__(self, stage: Stage, geometry: ImageGeometry, split: Split, seed: int, count: int) -> None:
        self._stage, self._split, self._seed, self._count = stage, split, seed, count
        self._geometry = geometry.model_copy(update={"canvas": (stage.canvas, stage.canvas)})

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image and its labels; the same index always gives the same pixels."""
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
    """A backbone with a LayerNorm, mean pooling over tokens, and a linear head."""

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
    """Return the cross-entropy against uniform distributions over an image's kinds and over its colours, summed.

    Args:
        logits: ``[B, NUM_CLASSES]``.
        labels: ``[B, NUM_CLASSES]``, true for labels of the image.
    """
    sizes = [len(KINDS), len(COLOURS)]
    parts = zip(logits.float().split(sizes, 1), labels.float().split(sizes, 1), strict=True)
    losses = [F.cross_entropy(part, target / target.sum(1, keepdim=True)) for part, target in parts]
    return torch.stack(losses).sum()


@torch.no_grad()
def top1_accuracy(model: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the fraction of images in which the most likely of the 13 kinds is present.

    Args:
        model: the classifier; its training mode is restored.
        batches: images ``[B, 3, H, W]`` and labels ``[B, NUM_CLASSES]``.
    """
    was_training = model.training
    model.eval()
    hits = [labels.gather(1, model(pixels)[:, : len(KINDS)].argmax(1, keepdim=True)) for pixels, labels in batches]
    model.train(was_training)
    return float(torch.cat(hits).float().mean())
