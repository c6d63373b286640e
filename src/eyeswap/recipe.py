"""The recipe: everything that is held fixed when a backbone is swapped, as one frozen object with one digest.

Defaults are the published fine-tuning recipe. Models here and in `eyeswap.planning.spec` refuse every key they
do not know, cannot be changed once made, and describe each field once: error messages and docs show that
description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from eyeswap.files import digest

DEFAULT_LLM = "lmsys/vicuna-7b-v1.5"

ConnectorKind = Literal["linear", "gelu-mlp", "fused-gelu-mlp"]
Wiring = Literal["controlled", "as-published"]
PromptKind = Literal["auto", "template", "vicuna", "plain"]
BoxFrame = Literal["original", "padded-square", "canvas"]
TrainBoxFrame = Literal["verbatim", "original", "padded-square", "canvas"]
TestBoxFrame = Literal["original", "study", "padded-square", "canvas"]

Count = Annotated[int, Field(strict=True, ge=1)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Spec(BaseModel):
    """Base of everything read from a study file: unknown keys are errors, values cannot be changed."""

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
    seed: Seed = Field(0, description="seed that draws the scenes; the same for every arm and every run seed")
    num_train_images: Count = Field(4000, description="images with instruction conversations")
    num_val_images: Count = Field(400, description="images behind the benchmarks")
    turns: Count = Field(10, description="question-answer turns in each training conversation")


class FolderData(Spec):
    """Data on disk: the official folders below one root."""

    folder: str = Field(min_length=1, description="root folder that holds the official data folders")
    instruction: str = Field(
        "download/llava-v1.5-instruct/llava_v1_5_mix665k.json",
        description="instruction-tuning json in the LLaVA format, relative to the folder",
    )
    skip_missing: bool = Field(
        False, description="leave out records whose image is missing or unreadable, and record how many"
    )
    box_frame: Literal["original", "padded-square"] | None = Field(
        None,
        description="what the boxes of the instruction file are fractions of: the original image, or the image padded "
        "to a square; null if not known (`eyeswap data check` finds out where annotations are at hand)",
    )


def _data_tag(value: Any) -> str:
    is_folder = isinstance(value, FolderData) or (isinstance(value, Mapping) and "folder" in value)
    return "folder" if is_folder else "digits"


Data = Annotated[Annotated[DigitsData, Tag("digits")] | Annotated[FolderData, Tag("folder")], Discriminator(_data_tag)]


class Recipe(Spec):
    """All that is held fixed when a backbone is swapped; the defaults are the published recipe."""

    data: Data = Field(description='training data: "digits", a folder, or either with its parameters')
    llm: str = Field(
        DEFAULT_LLM, min_length=1, description='language model: "digits-llm", a local folder, or a Hub name'
    )
    connector: ConnectorKind = Field("gelu-mlp", description="network between visual tokens and language model")
    wiring: Wiring = Field(
        "controlled",
        description='"as-published" repeats what the published code left open (backbones in train mode, '
        'taps before the first mixer, untrained norms); "controlled" removes it',
    )
    prompt: PromptKind = Field(
        "auto",
        description="how conversations are written: in the language model's own chat template, in the Vicuna v1.5 "
        "frame of the published study, or as plain lines; auto takes the template if there is one, else Vicuna's",
    )
    num_epochs: Count = Field(1, description="passes over the training data")
    max_steps: Count | None = Field(None, description="stop after this many optimizer steps; null runs all epochs")
    global_batch: Count = Field(128, description="conversations in one optimizer step")
    order: Literal["split-modality", "shuffled"] = Field(
        "split-modality",
        description='"split-modality" never mixes conversations with and without image in one global batch, as '
        'published; "shuffled" draws from all alike',
    )
    micro_batch: Count | None = Field(
        None,
        description="conversations in one forward pass; null takes the whole global batch, and for loss "
        "micro-batch-mean the whole share of a GPU",
    )
    lr: Positive = Field(2e-5, description="peak learning rate of AdamW")
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = Field(
        0.1, description="weight decay of matrices; biases and norms have none"
    )
    warmup_fraction: Share = Field(0.03, description="share of the steps with a rising learning rate")
    schedule: Literal["cosine"] = Field("cosine", description="course of the learning rate after warm-up, down to 0")
    clip_norm: Positive = Field(1.0, description="largest global gradient norm")
    loss: Literal["token-mean", "micro-batch-mean"] = Field(
        "token-mean",
        description='"token-mean" weighs every target token of the global batch alike; '
        '"micro-batch-mean" averages the means of the micro-batches, as the published code does',
    )
    published_gpus: Count = Field(
        8,
        description="for loss micro-batch-mean, the GPUs that the published code would train on, whatever this machine "
        "has: it deals a global batch out to them, balanced in words, and cuts each share into micro-batches",
    )
    lora_rank: Count | None = Field(
        None,
        description="train low-rank adapters of this rank (and twice this alpha) in the language model instead of "
        "all its weights, for smaller GPUs; needs the lora extra",
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="arithmetic of forward and backward passes")
    max_text_tokens: Count = Field(2048, description="longer conversations are cut after this many text tokens")
    train_box_frame: TrainBoxFrame = Field(
        "verbatim",
        description="what the boxes in training text are fractions of: verbatim leaves the text as the file has it; "
        "the others move every box there (original image, image padded to a square, canvas that the model sees)",
    )
    test_box_frame: TestBoxFrame = Field(
        "original",
        description="frame in which answers are compared with true boxes, and which of the four readings counts: "
        "original as upstream, study by the resize strategy's name as in the study's repository, padded-square, canvas",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_one_box_frame(cls, value: Any) -> Any:
        return _split_box_frame(value) if isinstance(value, Mapping) and "box_frame" in value else value

    @field_validator("data", mode="before")
    @classmethod
    def _data_from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": "digits"} if value == "digits" else {"folder": value}
        return value

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
    def _boxes_can_be_moved(self) -> Self:
        if self.train_box_frame != "verbatim" and self.file_box_frame is None:
            raise ValueError(
                f"train_box_frame {self.train_box_frame}: say in data.box_frame what the boxes of the file are "
                "fractions of (`eyeswap data check` finds out)"
            )
        return self

    @property
    def file_box_frame(self) -> BoxFrame | None:
        """What the boxes of the training file are fractions of; None if not known."""
        return "original" if isinstance(self.data, DigitsData) else self.data.box_frame

    @property
    def trained_box_frame(self) -> BoxFrame | None:
        """What the boxes that are trained on are fractions of; None if not known."""
        return self.file_box_frame if self.train_box_frame == "verbatim" else self.train_box_frame

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the recipe's canonical JSON: equal recipes have equal digests."""
        return digest(self.model_dump(mode="json"))


def _split_box_frame(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe of earlier versions, whose one ``box_frame`` held for training and test, with the keys of today.

    The boxes of a file were taken for fractions of the original image.
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
    """How training is carried out on a machine; what is learnt does not depend on it, beyond rounding."""

    tokens_per_pass: Count | None = Field(
        None,
        description="pack conversations of a global batch into passes of up to this many tokens, without padding "
        "(loss token-mean only); null takes the recipe's micro-batches, padded",
    )
    recompute: bool | Literal["elementwise"] = Field(
        False,
        description="compute every layer again in the backward pass, to save memory; elementwise keeps the results of "
        "matrix products and attention, which saves about half of it and costs little time",
    )
    compile: bool = Field(
        False, description="compile every layer of the language model with torch.compile, for GPUs; starts slower"
    )
    reduce_once: bool = Field(
        False,
        description="sum gradients over GPUs once a step, not after every pass: less traffic, where a step has several "
        "passes, for 4 bytes a parameter on every GPU",
    )
    workers: Annotated[int, Field(strict=True, ge=0)] = Field(
        4, description="processes that decode images, where visual tokens do not come from the cache"
    )
    cache_gb: Annotated[float, Field(strict=True, ge=0)] = Field(
        32.0, description="largest cache of visual tokens to write before training; larger ones are not written"
    )
    hash_images: Literal["sampled", "full"] = Field(
        "sampled",
        description="what a run records of each image: a digest of its size and both ends, or of all its bytes",
    )
    checkpoint_every_s: Annotated[float, Field(strict=True, ge=0)] | None = Field(
        None,
        description="seconds between checkpoints, 0 for one after every step; null takes 15 s, or 20 times what the "
        "last one took if that is longer",
    )
    keep_checkpoints: Count = Field(2, description="checkpoints kept while a run goes on")
    track: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        (), description="where the training log is sent besides train.jsonl"
    )

    @model_validator(mode="after")
    def _compiles_what_it_keeps(self) -> Self:
        if self.compile and self.recompute == "elementwise":
            raise ValueError("compile hides from recompute: elementwise what to keep; take recompute: true, or false")
        return self


def shown(value: Any) -> str:
    """Return a value as an error message shows it: quoted if it is text, cut if it is long."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
