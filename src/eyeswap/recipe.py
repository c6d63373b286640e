"""The recipe: everything that is held fixed when a backbone is swapped, as one frozen object with one digest.

The defaults are the published fine-tuning recipe. The models here and in `eyeswap.planning.spec` reject unknown keys,
are immutable, and describe each field once; error messages and docs show that description.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from eyeswap.connector_name import ConnectorName
from eyeswap.errors import SpecError
from eyeswap.files import digest

DEFAULT_LLM = "lmsys/vicuna-7b-v1.5"

Wiring = Literal["controlled", "as-published"]
PromptKind = Literal["auto", "template", "vicuna", "plain"]
BoxFrame = Literal["original", "padded-square", "canvas"]
TrainBoxFrame = Literal["verbatim", "original", "padded-square", "canvas"]
TestBoxFrame = Literal["original", "study", "padded-square", "canvas"]

Count = Annotated[int, Field(strict=True, ge=1)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


def _connector_exists(text: str, info: ValidationInfo) -> str:
    """Check that a connector exists; make the path of `file.py:function` absolute."""
    folder = (info.context or {}).get("folder", Path())
    try:
        name = ConnectorName.parse(text, folder.resolve())
    except SpecError as problem:
        raise ValueError(str(problem).removeprefix("connector: ")) from None
    if name.own is not None and not name.own.file.is_file():
        raise ValueError(f"{name.own.file} does not exist (the path is relative to the study file)")
    return name.text


Connector = Annotated[str, AfterValidator(_connector_exists)]


class Spec(BaseModel):
    """Base of all parts of a study file: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: Any) -> Any:
        if not isinstance(value, cls | Mapping):
            raise ValueError(f"expected a mapping of keys to values, got {shown(value)}")
        return value


class DigitsData(Spec):
    """The embedded data set: scenes of handwritten digits and shapes, written in the official formats."""

    name: Literal["digits"] = Field("digits", description="the embedded data set")
    seed: Seed = Field(0, description="random seed of the scenes; the same for every arm and every run seed")
    num_train_images: Count = Field(4000, description="images with training conversations")
    num_val_images: Count = Field(400, description="images of the benchmarks")
    turns: Count = Field(10, description="question-answer turns per training conversation")


class FolderData(Spec):
    """Data on disk: the official folders below one root."""

    folder: str = Field(min_length=1, description="data root: the folder that contains the official data folders")
    instruction: str = Field(
        "download/llava-v1.5-instruct/llava_v1_5_mix665k.json",
        description="instruction-tuning JSON in LLaVA's format, relative to the folder",
    )
    skip_missing: bool = Field(
        False, description="skip records whose image is missing or unreadable, and record how many"
    )
    box_frame: Literal["original", "padded-square"] | None = Field(
        None,
        description="frame of the boxes in the instruction file: fractions of the original image, or of the image "
        "padded to a square; null if unknown (`eyeswap data check` determines it where annotations are available)",
    )


def _data_tag(value: Any) -> str:
    is_folder = isinstance(value, FolderData) or (isinstance(value, Mapping) and "folder" in value)
    return "folder" if is_folder else "digits"


def data_from_text(value: Any) -> Any:
    """Return what ``data: digits`` or ``data: FOLDER`` stands for; anything else as it is."""
    if isinstance(value, str):
        return {"name": "digits"} if value == "digits" else {"folder": value}
    return value


Data = Annotated[Annotated[DigitsData, Tag("digits")] | Annotated[FolderData, Tag("folder")], Discriminator(_data_tag)]


Trainable = Literal["connector", "connector+llm", "connector+adapters", "connector+llm+blocks"]
Stages = Literal["one", "align-then-tune"]


class Align(Spec):
    """The first of two stages, in which the connector learns alone."""

    share: Annotated[float, Field(strict=True, gt=0, lt=1)] = Field(
        0.1, description="share of the steps that it takes, the first ones"
    )
    lr: Positive = Field(1e-3, description="its peak learning rate; each stage warms up and decays by itself")


class Blocks(Spec):
    """The blocks of the backbone that learn with trainable connector+llm+blocks."""

    last: Count = Field(1, description="how many blocks learn, counted back from the tap")
    lr: Positive = Field(2e-6, description="their peak learning rate; it rises and decays as the other does")


class Recipe(Spec):
    """Everything that is held fixed when a backbone is swapped; the defaults are the published recipe."""

    data: Data = Field(description='training data: "digits", a folder, or a mapping with the keys below')
    llm: str = Field(
        DEFAULT_LLM, min_length=1, description='language model: "digits-llm", a local folder, or a Hub name'
    )
    connector: Connector = Field(
        "gelu-mlp",
        description="network between visual tokens and language model: linear, gelu-mlp or fused-gelu-mlp, with steps "
        "in front that change the tokens, such as pool-2x2+gelu-mlp, or file.py:function (docs/connectors.md)",
    )
    wiring: Wiring = Field(
        "controlled",
        description='"as-published" reproduces the confounds of the published code (backbones in train mode, '
        'taps before the first mixer, untrained norms); "controlled" removes them',
    )
    prompt: PromptKind = Field(
        "auto",
        description="format of conversations: the language model's own chat template, the Vicuna v1.5 frame of the "
        "published study, or plain lines; auto takes the template if there is one, otherwise Vicuna's",
    )
    num_epochs: Count = Field(1, description="passes over the training data")
    max_steps: Count | None = Field(None, description="stop after this many optimizer steps; null runs all epochs")
    global_batch: Count = Field(128, description="conversations per optimizer step")
    order: Literal["split-modality", "shuffled"] = Field(
        "split-modality",
        description='"split-modality" never mixes conversations with and without an image in one global batch, as '
        'published; "shuffled" mixes them',
    )
    micro_batch: Count | None = Field(
        None,
        description="conversations per forward pass; null takes the complete global batch, or with loss "
        "micro-batch-mean the complete share of a GPU",
    )
    lr: Positive = Field(2e-5, description="peak learning rate of AdamW")
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = Field(
        0.1, description="weight decay of matrices; biases and norms are not decayed"
    )
    warmup_fraction: Share = Field(0.03, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine"] = Field("cosine", description="decay of the learning rate to 0 after warm-up")
    clip_norm: Positive = Field(1.0, description="maximum global gradient norm")
    loss: Literal["token-mean", "micro-batch-mean"] = Field(
        "token-mean",
        description='"token-mean" weights every target token of the global batch equally; '
        '"micro-batch-mean" averages the means of the micro-batches, as the published code does',
    )
    published_gpus: Count = Field(
        8,
        description="for loss micro-batch-mean: number of GPUs of the published training, independent of this machine; "
        "each global batch is divided among them, balanced by words, and each share is split into micro-batches",
    )
    lora_rank: Count | None = Field(
        None,
        description="train low-rank adapters of this rank (with alpha twice the rank) in the language model instead of "
        "all its weights, for smaller GPUs; needs the lora extra",
    )
    trainable: Trainable | None = Field(
        None,
        description="what learns: the connector alone, with the language model, or with adapters in it (of lora_rank), "
        "or also the last blocks of the backbone, which is another question than what frozen encoders show; null is "
        "connector+adapters where lora_rank is set, else connector+llm, as published",
    )
    blocks: Blocks | None = Field(
        None, description="the blocks that learn with trainable connector+llm+blocks; null takes its defaults"
    )
    stages: Stages | None = Field(
        None,
        description="one, as published, or align-then-tune, as LLaVA: the connector learns alone in the first steps; "
        "null is one",
    )
    align: Align | None = Field(None, description="the first stage of align-then-tune; null takes its defaults")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="arithmetic of forward and backward passes")
    max_text_tokens: Count = Field(2048, description="conversations are truncated to this many text tokens")
    train_box_frame: TrainBoxFrame = Field(
        "verbatim",
        description="frame of the boxes in the training text: verbatim keeps the file's text; the others convert every "
        "box (to fractions of the original image, of the image padded to a square, or of the canvas the model sees)",
    )
    test_box_frame: TestBoxFrame = Field(
        "original",
        description="frame in which predicted boxes are compared with ground truth for the reported score: original as "
        "upstream, study by the resize strategy's name as in the study's repository, padded-square, or canvas",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_one_box_frame(cls, value: Any) -> Any:
        return _split_box_frame(value) if isinstance(value, Mapping) and "box_frame" in value else value

    @field_validator("data", mode="before")
    @classmethod
    def _data_from_text(cls, value: Any) -> Any:
        return data_from_text(value)

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.micro_batch is not None and self.global_batch % self.micro_batch:
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch}")
        if self.loss == "micro-batch-mean" and self.global_batch % (self.published_gpus * (self.micro_batch or 1)):
            raise ValueError(
                f"loss micro-batch-mean: global_batch {self.global_batch} is not a multiple of published_gpus "
                f"{self.published_gpus} times micro_batch {self.micro_batch or 1}; set published_gpus"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.trainable == "connector+adapters" and self.lora_rank is None:
            raise ValueError("trainable connector+adapters: set lora_rank, the rank of the adapters, such as 128")
        if self.stages == "align-then-tune" and self.trained == "connector":
            raise ValueError("stages align-then-tune: with trainable connector there is nothing to tune")
        if self.tuned is not None and self.wiring == "as-published":
            raise ValueError("trainable connector+llm+blocks: wiring as-published leaves the backbone in train mode")
        return self

    @model_serializer(mode="wrap")
    def _without_newer_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that older versions did not know where they are not set, so that digests stay."""
        return {key: value for key, value in dump(self).items() if key not in _NEWER or value is not None}

    @property
    def trained(self) -> Trainable:
        """What learns."""
        return self.trainable or ("connector+llm" if self.lora_rank is None else "connector+adapters")

    @property
    def adapter_rank(self) -> int | None:
        """The rank of the adapters that learn; None if none do."""
        return self.lora_rank if self.trained == "connector+adapters" else None

    @property
    def tuned(self) -> Blocks | None:
        """The blocks of the backbone that learn; None if it is frozen."""
        return (self.blocks or Blocks()) if self.trained == "connector+llm+blocks" else None

    @property
    def aligned(self) -> Align | None:
        """The stage in which the connector learns alone; None if there is one stage."""
        return (self.align or Align()) if self.stages == "align-then-tune" else None

    @model_validator(mode="after")
    def _boxes_can_be_moved(self) -> Self:
        if self.train_box_frame != "verbatim" and self.file_box_frame is None:
            raise ValueError(
                f"train_box_frame {self.train_box_frame}: also set data.box_frame, the frame of the boxes in the file "
                "(`eyeswap data check` determines it)"
            )
        return self

    @property
    def file_box_frame(self) -> BoxFrame | None:
        """Frame of the boxes in the training file; None if unknown."""
        return "original" if isinstance(self.data, DigitsData) else self.data.box_frame

    @property
    def trained_box_frame(self) -> BoxFrame | None:
        """Frame of the boxes that the model is trained on; None if unknown."""
        return self.file_box_frame if self.train_box_frame == "verbatim" else self.train_box_frame

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the recipe's canonical JSON: equal recipes have equal digests."""
        return digest(self.model_dump(mode="json"))


_NEWER = ("trainable", "blocks", "stages", "align")


def _split_box_frame(value: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a recipe of earlier versions, whose single ``box_frame`` applied to training and test.

    Those versions took the boxes of a file to be fractions of the original image.
    """
    recipe = dict(value)
    frame, data = recipe.pop("box_frame"), recipe.get("data")
    if "train_box_frame" in recipe or "test_box_frame" in recipe:
        raise ValueError("box_frame: replaced by train_box_frame and test_box_frame; remove it")
    if frame not in ("original", "canvas"):
        raise ValueError(f"box_frame: unknown value {shown(frame)}; set train_box_frame and test_box_frame")
    if frame == "original":
        return recipe
    folder = {"folder": data} if isinstance(data, str) and data != "digits" else data
    if isinstance(folder, Mapping) and "folder" in folder:
        recipe["data"] = {"box_frame": "original", **folder}
    return {**recipe, "train_box_frame": frame, "test_box_frame": frame}


class Execution(Spec):
    """How training runs on a machine; the trained weights do not depend on it, apart from rounding."""

    tokens_per_pass: Count | None = Field(
        None,
        description="pack the conversations of a global batch into passes of at most this many tokens, without padding "
        "(loss token-mean only); null uses the recipe's padded micro-batches",
    )
    recompute: bool | Literal["elementwise"] = Field(
        False,
        description="activation checkpointing: recompute every layer in the backward pass; elementwise keeps the "
        "results of matrix products and attention, which saves about half as much memory at little cost in time",
    )
    compile: bool = Field(
        False, description="compile every layer of the language model with torch.compile, for GPUs; slower to start"
    )
    reduce_once: bool = Field(
        False,
        description="reduce gradients over GPUs once per step instead of after every pass: less traffic if a step has "
        "several passes, at 4 bytes per parameter on every GPU",
    )
    shard_over: Count | None = Field(
        None,
        description="processes that hold one copy of weights and optimizer state together, such as the GPUs of a node; "
        "several such groups exchange gradients only; null: all processes hold one copy",
    )
    workers: Annotated[int, Field(strict=True, ge=0)] = Field(
        4, description="processes that decode images if visual tokens are not cached"
    )
    cache_gb: Annotated[float, Field(strict=True, ge=0)] = Field(
        32.0, description="write a cache of visual tokens before training if it is no larger than this"
    )
    hash_images: Literal["sampled", "full"] = Field(
        "sampled",
        description="the digest of each image that a run records: of its size, first and last bytes, or of all bytes",
    )
    checkpoint_every_s: Annotated[float, Field(strict=True, ge=0)] | None = Field(
        None,
        description="seconds between checkpoints, 0 for one after every step; null: 15 s, or 20 times the duration of "
        "the last checkpoint if that is longer",
    )
    keep_checkpoints: Count = Field(2, description="checkpoints kept during a run")
    track: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        (), description="where the training log is sent besides train.jsonl"
    )

    @model_validator(mode="after")
    def _compiles_what_it_keeps(self) -> Self:
        if self.compile and self.recompute == "elementwise":
            raise ValueError("recompute: elementwise does not work with compile; set recompute to true or false")
        return self


def shown(value: Any) -> str:
    """Return a value for an error message: quoted if it is text, shortened if it is long."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
