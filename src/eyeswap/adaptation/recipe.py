"""Recipes of adaptation: one for each objective, the same for every family, so that arms differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from eyeswap.backbones.catalog import Objective
from eyeswap.errors import SpecError, nearest
from eyeswap.recipe import Count, Positive, Seed, Share, Spec, shown
from eyeswap.yaml_reader import read_yaml

SCALES = (4, 2, 1, 0.5, 0.25)
NUM_GROUPS = 8  # of the group norms in pyramid and heads


class AdaptationRecipe(Spec):
    """Everything that determines the adapted weights besides backbone, geometry and data.

    The defaults are for the miniature; `DEFAULTS` has those of each objective.
    """

    steps: Count = Field(description="optimizer steps")
    batch: Count = Field(16, description="images per step")
    lr: Positive = Field(1e-3, description="peak learning rate of pyramid and head; AdamW")
    backbone_lr: Positive = Field(5e-4, description="peak learning rate of the backbone")
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = Field(
        0.05, description="weight decay of matrices; biases and norms are not decayed"
    )
    warmup_fraction: Share = Field(0.05, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine"] = Field("cosine", description="decay of the learning rate to 0 after warm-up")
    clip_norm: Positive = Field(1.0, description="maximum global gradient norm")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of forward and backward passes")
    scales: tuple[float, ...] = Field(
        min_length=1,
        description="levels of the pyramid, fine to coarse: cells per cell of the tapped map and axis; classification "
        "has no pyramid",
    )
    width: Count = Field(64, description=f"channels of pyramid and head, a multiple of {NUM_GROUPS}")
    head_depth: Count = Field(2, description="convolutions of a branch of the head in front of its output")
    mirror: bool = Field(False, description="mirror half of the training images; not for digits, which have a side")
    train_images: Count | None = Field(None, description="training images of digits to draw; null takes the default")
    val_images: Count | None = Field(None, description="validation images, the first ones; null takes all")
    seed: Seed = Field(7, description="seed of head weights and order; the scenes of digits are always the same")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.width % NUM_GROUPS:
            raise ValueError(f"width {self.width}: must be a multiple of {NUM_GROUPS}")
        if list(self.scales) != [scale for scale in SCALES if scale in self.scales]:
            raise ValueError(f"scales {list(self.scales)}: choose from {list(SCALES)}, in this order")
        return self


DEFAULTS: dict[Objective, dict[str, Any]] = {
    "classification": {"steps": 1000, "scales": [1]},
    "detection": {"steps": 1000, "scales": [2, 1, 0.5]},
    "segmentation": {"steps": 1000, "scales": [4, 2, 1, 0.5]},
}


def load_recipe(
    objective: Objective, path: Path | None = None, changes: Mapping[str, Any] | None = None
) -> AdaptationRecipe:
    """Return the recipe of an objective, with the keys that a YAML file and then ``changes`` set.

    Raises:
        SpecError: naming file and key if one is unknown or has an impossible value.
    """
    content = {} if path is None else read_yaml(path)
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected the keys of an adaptation recipe, such as steps, got {shown(content)}")
    source = "recipe" if path is None else str(path)
    try:
        return AdaptationRecipe.model_validate({**DEFAULTS[objective], **content, **(changes or {})})
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SpecError(f"{source}: {key}: unknown key. {nearest(key, AdaptationRecipe.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        raise SpecError(f"{source}: {key}: {message}" if key else f"{source}: {message}") from None
