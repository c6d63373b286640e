"""Pretraining recipes of the miniature backbones as data: one recipe per family, shared by its sizes.

The task (kinds of images, labels, seed) is the same for all. Steps, optimiser and initialisation are specific to a
family if the shared ones do not bring it to the accuracy of the others, as for published ImageNet-1K checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eyeswap.backbones.catalog import Family


@dataclass(frozen=True)
class Stage:
    """One stage of pretraining.

    Attributes:
        canvas: side of the square canvas in pixels.
        close_up: smallest and largest side of the only object in an image, as a fraction of the canvas; if None, images
            are whole scenes.
        num_images: number of distinct images, rendered on demand.
        num_epochs: passes over them.
        batch_size: images per step.
        learning_rate: peak of a warm-up and half-cosine schedule.
    """

    canvas: int
    close_up: tuple[float, float] | None
    num_images: int
    num_epochs: int
    batch_size: int
    learning_rate: float

    @property
    def num_steps(self) -> int:
        """Number of steps of the stage."""
        return self.num_images // self.batch_size * self.num_epochs


@dataclass(frozen=True)
class ClassificationRecipe:
    """Recipe of a miniature backbone.

    Attributes:
        stages: the stages, in order, each with a fresh optimiser.
        initialisation: of linear layers: ``network`` keeps the network's own; ``xavier`` is the uniform initialisation
            of Glorot and Bengio that Steiner et al. (2022) use for ViT. At a width of 128 the usual std of 0.02 is so
            small that attention hardly changes for thousands of steps.
        betas: decay rates of AdamW's two moments.
        warmup_fraction: fraction of every stage in which the learning rate rises.
        weight_decay: of matrices; vectors have none.
        precision: of activations.
        evaluate_every: steps between validations.
        snapshots: fractions of `target_accuracy` at which a snapshot is kept.
        target_accuracy: top-1 accuracy on unseen handwriting that all families are meant to reach.
        seed: of images, order and initialisation.
    """

    stages: tuple[Stage, ...]
    initialisation: Literal["network", "xavier"] = "network"
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate_every: int = 200
    snapshots: tuple[float, ...] = (0.5, 0.75, 0.97)
    target_accuracy: float = 0.95
    seed: int = 7

    @property
    def num_steps(self) -> int:
        """Number of steps of all stages."""
        return sum(stage.num_steps for stage in self.stages)


_CLOSE_UPS = Stage(64, (0.36, 0.9), num_images=24_000, num_epochs=4, batch_size=64, learning_rate=1e-3)
_SCENES = Stage(128, None, num_images=8_000, num_epochs=2, batch_size=32, learning_rate=5e-4)
# Once whole scenes are shown, accuracy rises from 40 to 85% within 200 steps: snapshots need it more often than that.
_SHARED = ClassificationRecipe(stages=(_CLOSE_UPS, _SCENES), precision="bfloat16", evaluate_every=50)


def _small_to_large(*learning_rates: float) -> tuple[Stage, ...]:
    """Return stages of growing canvases, as in DeiT III (Touvron et al. 2022, section 3).

    A network without convolutions has to learn which patches belong together. After 6,400 close-ups that fill a canvas
    of 32 pixels, a ViT named 58% of unseen kinds; after 19,200 close-ups of all sizes, 17%.
    """
    filled, nearly, all_sizes, scenes = learning_rates
    return (
        Stage(32, (0.8, 1.0), num_images=25_600, num_epochs=1, batch_size=64, learning_rate=filled),
        Stage(48, (0.5, 1.0), num_images=38_400, num_epochs=1, batch_size=64, learning_rate=nearly),
        Stage(64, (0.36, 0.9), num_images=38_400, num_epochs=1, batch_size=64, learning_rate=all_sizes),
        Stage(128, None, num_images=12_800, num_epochs=1, batch_size=32, learning_rate=scenes),
    )


_LONGER = (  # before these three stages the ViT names 70% of unseen kinds, before the last 86%
    Stage(64, (0.36, 0.9), num_images=76_800, num_epochs=1, batch_size=64, learning_rate=1e-3),
    Stage(128, None, num_images=38_400, num_epochs=1, batch_size=32, learning_rate=7e-4),
    Stage(128, None, num_images=64_000, num_epochs=1, batch_size=32, learning_rate=7e-4),
)
_VIT = ClassificationRecipe((*_small_to_large(2e-3, 1.5e-3, 1e-3, 7e-4), *_LONGER), initialisation="xavier")

RECIPES: dict[Family, ClassificationRecipe] = {
    "vit": _VIT,
    "maxvit": _SHARED,
    "vmamba": _SHARED,
    "mambavision": _SHARED,
}
