"""What a study is: one question, one recipe held fixed, and the arms that differ in what they declare.

A study is one YAML file. The models here refuse every key they do not know, cannot be changed once read, and
describe each field once: error messages and docs show that description. `load_study` is the only reader;
whatever is wrong with a file becomes one line that names the file, the field and the nearest valid choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from eyeswap.errors import SpecError, nearest
from eyeswap.files import digest
from eyeswap.study.yaml_reader import read_yaml

ConnectorKind = Literal["linear", "gelu-mlp", "fused-gelu-mlp"]
Wiring = Literal["controlled", "as-published"]
Factor = Literal["backbone", "connector", "geometry", "tap", "wiring"]

Count = Annotated[int, Field(strict=True, ge=1)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]

KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: Any) -> Any:
        if not isinstance(value, cls | Mapping):
            raise ValueError(f"expected a mapping of keys to values, got {_shown(value)}")
        return value


class DigitsData(_Spec):
    """The embedded data set: scenes of handwritten digits and shapes, written in the official formats."""

    name: Literal["digits"] = Field("digits", description="the embedded data set")
    seed: Seed = Field(0, description="seed that draws the scenes; the same for every arm and every run seed")
    num_train_images: Count = Field(4000, description="images with instruction conversations")
    num_val_images: Count = Field(400, description="images behind the benchmarks")
    turns: Count = Field(10, description="question-answer turns in each training conversation")


class FolderData(_Spec):
    """Data on disk: the official folders below one root."""

    folder: str = Field(min_length=1, description="root folder that holds the official data folders")
    instruction: str = Field(
        "download/llava-v1.5-instruct/llava_v1_5_mix665k.json",
        description="instruction-tuning json in the LLaVA format, relative to the folder",
    )


def _data_tag(value: Any) -> str:
    is_folder = isinstance(value, FolderData) or (isinstance(value, Mapping) and "folder" in value)
    return "folder" if is_folder else "digits"


Data = Annotated[
    Annotated[DigitsData, Tag("digits")] | Annotated[FolderData, Tag("folder")], Discriminator(_data_tag)
]


class Recipe(_Spec):
    """All that is held fixed when a backbone is swapped; the defaults are the published recipe."""

    data: Data = Field(description='training data: "digits", a folder, or either with its parameters')
    llm: str = Field(min_length=1, description='language model: "digits-llm", a local folder, or a Hub name')
    connector: ConnectorKind = Field(
        "gelu-mlp", description="network between visual tokens and language model"
    )
    wiring: Wiring = Field(
        "controlled",
        description='"controlled" keeps the frozen backbone in eval mode; "as-published" in train mode',
    )
    box_frame: Literal["original", "canvas"] = Field(
        "original",
        description="frame of box coordinates: the original image, or the canvas the backbone sees",
    )
    num_epochs: Count = Field(1, description="passes over the training data")
    max_steps: Count | None = Field(
        None, description="stop after this many optimizer steps; null runs all epochs"
    )
    global_batch: Count = Field(128, description="conversations in one optimizer step")
    micro_batch: Count | None = Field(
        None, description="conversations in one forward pass; null takes the whole global batch"
    )
    lr: Positive = Field(2e-5, description="peak learning rate of AdamW")
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = Field(
        0.1, description="weight decay of matrices; biases and norms have none"
    )
    warmup_fraction: Share = Field(0.03, description="share of the steps with a rising learning rate")
    schedule: Literal["cosine"] = Field(
        "cosine", description="course of the learning rate after warm-up, down to 0"
    )
    clip_norm: Positive = Field(1.0, description="largest global gradient norm")
    loss: Literal["token-mean", "micro-batch-mean"] = Field(
        "token-mean",
        description='"token-mean" weighs every target token of the global batch alike; '
        '"micro-batch-mean" averages the means of the micro-batches, as the published code does',
    )
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="arithmetic of forward and backward passes"
    )
    max_text_tokens: Count = Field(
        2048, description="longer conversations are cut after this many text tokens"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _data_from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": "digits"} if value == "digits" else {"folder": value}
        return value

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.micro_batch is not None and self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch}"
            )
        return self

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the recipe's canonical JSON: equal recipes have equal digests."""
        return digest(self.model_dump(mode="json"))


class Arm(_Spec):
    """One treatment: a backbone, and the declared differences in how it is connected."""

    backbone: str = Field(description="catalog name, `file.py:function` of your own, or `timm:name`")
    connector: ConnectorKind | None = Field(
        None, description="connector of this arm; null takes the recipe's"
    )
    geometry: str | None = Field(
        None, description="how an image meets its canvas; null takes the backbone's own"
    )
    tap: str | None = Field(None, description="where features are read; null takes the backbone's own tap")
    wiring: Wiring | None = Field(None, description="wiring of this arm; null takes the recipe's")

    @field_validator("backbone")
    @classmethod
    def _backbone_exists(cls, name: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder", Path())
        return _resolve_backbone(name, folder)

    @property
    def overrides(self) -> dict[str, str]:
        """The factors that this arm sets itself, the backbone aside."""
        return {
            key: value for key, value in self.model_dump().items() if value is not None and key != "backbone"
        }


class Study(_Spec):
    """One question, the recipe held fixed, and the arms compared."""

    name: str = Field(description="kebab-case name, taken from the file name")
    question: str = Field(min_length=1, description="what the study asks, in one sentence")
    recipe: Recipe = Field(description="what is held fixed")
    arms: dict[str, Arm] = Field(min_length=1, description="kebab-case name of each arm and its backbone")
    may_differ: tuple[Factor, ...] = Field(("backbone",), description="factors in which arms may differ")
    benchmarks: tuple[str, ...] = Field(min_length=1, description="names of the benchmarks to run")
    seeds: tuple[Seed, ...] = Field((7,), min_length=1, description="one run for each arm and seed")
    subset: Count | None = Field(
        None, description="examples of each benchmark part; null evaluates all of them"
    )

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_from_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"backbone": arm} if isinstance(arm, str) else arm for name, arm in value.items()}

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = benchmark_names()
        for name in names:
            if name not in known:
                raise ValueError(f'unknown benchmark "{name}". {nearest(name, known)}')
        return _without_repeats(names)

    @field_validator("seeds", "may_differ")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _without_repeats(values)

    @model_validator(mode="after")
    def _arms_differ_as_declared(self) -> Self:
        for name, arm in self.arms.items():
            if not KEBAB.fullmatch(name):
                raise ValueError(f'arms: "{name}" is not a kebab-case name such as vmamba-small')
            for key in arm.overrides:
                if key not in self.may_differ:
                    raise ValueError(f"arms.{name}.{key}: arms may not differ here; add {key} to may_differ")
        if "backbone" not in self.may_differ and len({arm.backbone for arm in self.arms.values()}) > 1:
            raise ValueError("arms: backbones differ; add backbone to may_differ")
        return self

    def connector_of(self, arm: str) -> ConnectorKind:
        """Return the connector of an arm: its own, or the recipe's."""
        return self.arms[arm].connector or self.recipe.connector

    def wiring_of(self, arm: str) -> Wiring:
        """Return the wiring of an arm: its own, or the recipe's."""
        return self.arms[arm].wiring or self.recipe.wiring


def benchmark_names() -> tuple[str, ...]:
    """Return the names of all benchmarks, in the order in which reports show them."""
    return (
        *("vqav2", "gqa", "vizwiz", "textvqa-ocr", "textvqa-pure", "pope", "tallyqa"),
        *("refcoco", "refcoco+", "refcocog", "ocid-ref"),
    )


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        SpecError: for whatever is wrong with it, in one line: file, field, nearest valid choice.
    """
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise SpecError(
            f"{path}: expected a mapping with question, recipe, arms and benchmarks, got {_shown(value)}"
        )
    if "name" in value:
        raise SpecError(f"{path}: name: a study is named by its file; remove this key")
    if not KEBAB.fullmatch(path.stem):
        raise SpecError(
            f"{path}: the file name is the study's name and must be kebab-case, such as my-study.yaml"
        )
    try:
        return Study.model_validate({"name": path.stem, **value}, context={"folder": path.parent})
    except ValidationError as problem:
        raise SpecError(f"{path}: {_one_line(problem)}") from None


def _resolve_backbone(name: str, folder: Path) -> str:
    """Check that a backbone exists; make the path of `file.py:function` absolute."""
    if name.startswith("timm:"):
        if not name.removeprefix("timm:"):
            raise ValueError("timm: needs a model name, such as timm:vit_small_patch14_dinov2")
        return name
    if ".py:" in name:
        file_name, _, function = name.rpartition(":")
        file = (folder / file_name).resolve()
        if not file.is_file():
            raise ValueError(f"{file} does not exist (the path is relative to the study file)")
        if not function.isidentifier():
            raise ValueError(f'"{function}" is not a function name; write {file_name}:build')
        return f"{file}:{function}"
    from eyeswap.backbones import catalog

    try:
        catalog.entry(name)
    except SpecError as problem:
        raise ValueError(str(problem)) from None
    return name


def _without_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{_shown(value)} is listed twice")
    return values


def _one_line(problem: ValidationError) -> str:
    """Turn the first of pydantic's complaints into one line: field, what is wrong, what is allowed."""
    first, *others = problem.errors()
    location = list(first["loc"])
    model = _model_at(location)
    if model in (DigitsData, FolderData):
        del location[2]  # pydantic adds the tag of the union to recipe.data.<key>
    field = next(
        (model.model_fields[str(key)] for key in reversed(location) if key in model.model_fields), None
    )
    kind = first["type"]
    if kind == "extra_forbidden":
        text = f"unknown key. {nearest(str(location[-1]), model.model_fields)}"
    elif kind == "missing":
        text = "missing"
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        text = f"unknown value {_shown(first['input'])}. {nearest(str(first['input']), allowed)}"
    elif kind == "value_error":
        text = str(first["ctx"]["error"])
    else:
        told = first["msg"].replace("Input should", "should")
        text = f"{told[0].lower()}{told[1:]}, got {_shown(first['input'])}"
    if field and field.description and kind not in ("extra_forbidden", "value_error"):
        text += f" ({field.description})"
    where = ".".join(str(part) for part in location)
    more = f" ({len(others)} more after this one)" if others else ""
    return f"{where}: {text}{more}" if where else f"{text}{more}"


def _model_at(location: list[Any]) -> type[_Spec]:
    """Return the model that holds the last key of a location in a study."""
    match location:
        case ["recipe", "data", "digits", *_]:
            return DigitsData
        case ["recipe", "data", "folder", *_]:
            return FolderData
        case ["recipe", _, *_]:
            return Recipe
        case ["arms", _, _, *_]:
            return Arm
        case _:
            return Study


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
