"""The released layout: its ``config.json`` in our terms, and the tensors of its checkpoint.

``config.json`` is a dump of the published training configuration; ``checkpoints/latest-checkpoint.pt`` is a torch file
``{"model": {"projector": {...}, "llm_backbone": {...}}}``, memory-mapped and read by torch's weights-only reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from eyeswap.errors import CheckpointError, SpecError
from eyeswap.files import read_json, read_torch_weights
from eyeswap.recipe import DEFAULT_LLM
from eyeswap.vlm.released.catalog import CONFIG_FILE, WEIGHTS_FILE

_LLMS = {"vicuna-v15-7b": DEFAULT_LLM}
_PARTS = ("projector", "llm_backbone")
# Image strategies of the published code other than "letterbox", which is the default of each backbone.
_GEOMETRIES = {
    **{f"letterbox-square-{side}": f"corner-letterbox-{side}-no-enlarge" for side in (224, 256, 512, 1024)},
    "vmamba-classification": "resize-crop-224-from-256",
    "vmamba-detection": "keep-ratio-800x1333-no-enlarge",
    "vmamba-segmentation": "keep-ratio-512x2048-no-enlarge",
    "vitdet-detection": "corner-letterbox-1024-no-enlarge",
}


class _Model(BaseModel):
    """The model part of the published ``config.json``; its many other fields describe the training."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vision_backbone_id: str
    llm_backbone_id: str
    arch_specifier: str
    image_resize_strategy: str
    llm_max_length: int = 2048
    vmamba_feature_stage: int | None = None
    vmamba_feature_layer: int | None = None


class ReleasedConfig(BaseModel):
    """The published ``config.json``; the tap of a VMamba is either in the model part or at the top level."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: _Model
    vmamba_feature_stage: int | None = None
    vmamba_feature_layer: int | None = None

    @property
    def llm(self) -> str | None:
        """Hub name of the LLM; None if we do not know it."""
        return _LLMS.get(self.model.llm_backbone_id)

    @property
    def connector(self) -> str:
        """Our name of the connector; the prefix ``no-align+`` means that there was no first training stage."""
        arch = self.model.arch_specifier
        if arch == "linear":
            return "linear"
        kind = next((kind for kind in ("fused-gelu-mlp", "gelu-mlp") if arch.endswith(kind)), None)
        if kind is None:
            raise CheckpointError(f"{CONFIG_FILE}: model.arch_specifier {arch!r} is not a published connector")
        return kind

    @property
    def tap(self) -> str | None:
        """The tap of a VMamba backbone as ``stage,block``; None for the backbone's default."""
        stage = self.model.vmamba_feature_stage or self.vmamba_feature_stage
        layer = self.model.vmamba_feature_layer
        layer = self.vmamba_feature_layer if layer is None else layer
        return None if stage is None else f"{stage},{-1 if layer is None else layer}"

    @property
    def geometry(self) -> str | None:
        """Our name of the image strategy; None for the published letterbox of the backbone.

        Raises:
            SpecError: if it has no equivalent here.
        """
        strategy = self.model.image_resize_strategy
        if strategy == "letterbox":
            return None
        if strategy not in _GEOMETRIES:
            known = ", ".join(["letterbox", *_GEOMETRIES])
            raise SpecError(f"image strategy {strategy!r} is unknown: choose one with --geometry. Known: {known}")
        return _GEOMETRIES[strategy]


def read_config(folder: Path) -> tuple[str, ReleasedConfig]:
    """Return a released ``config.json`` as text and parsed.

    Raises:
        CheckpointError: if it is missing or lacks a field.
    """
    path = folder / CONFIG_FILE
    content = read_json(path) if path.is_file() else None
    if content is None:
        raise CheckpointError(f"{folder}: no {CONFIG_FILE}; a released checkpoint consists of it and {WEIGHTS_FILE}")
    try:
        return path.read_text(encoding="utf-8"), ReleasedConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole file"
        raise CheckpointError(f"{path}: {field}: {first['msg'].lower()}; is this a released checkpoint?") from None


def read_payload(path: Path) -> dict[str, Mapping[str, Tensor]]:
    """Return the tensors of a released checkpoint, of any shape, by part and published key.

    Raises:
        CheckpointError: if the file is missing or damaged, would run code, or has another layout.
    """
    content = read_torch_weights(path, mmap=True)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: no key 'model' at the top level; is this a released checkpoint?")
    for part in _PARTS:
        if not isinstance(model.get(part), dict):
            raise CheckpointError(f"{path}: model has no key {part!r}; it has {', '.join(map(str, model)) or 'none'}")
    extra = [part for part in model if part not in _PARTS]
    if extra:
        raise CheckpointError(f"{path}: model.{extra[0]}: only checkpoints with a frozen backbone can be imported")
    for part in _PARTS:
        for key, value in model[part].items():
            if not isinstance(value, Tensor):
                raise CheckpointError(f"{path}: model.{part}: {key} is not a tensor")
    return {part: model[part] for part in model}


def our_key(part: str, key: str) -> str:
    """Return our name of a published key, such as ``connector.0.weight`` for ``projector.0.weight``."""
    if part == "llm_backbone":
        return key
    rest = key.removeprefix("projector.")
    return f"connector.{rest}" if rest[0].isdigit() else f"connector.0.{rest}"  # a linear connector has no layer number


def renamed(payload: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield our name of every tensor, and the tensor, of any shape."""
    for part, tensors in payload.items():
        for key, tensor in tensors.items():
            yield our_key(part, key), tensor
