"""The records in a run's folder, as types: the run, the benchmarks it was asked, and how an evaluation was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from eyeswap.errors import DataError
from eyeswap.files import read_json, write_json
from eyeswap.recipe import Wiring
from eyeswap.runs.folder import run_name
from eyeswap.runs.identity import ModelIdentity
from eyeswap.runs.recorded import Recorded, first_problem

COLOUR_KEYS = ("mean", "std", "fill")  # normalisation that belongs to the encoder, not to the placement of pixels

Geometry = Mapping[str, Any]
TapNorm = Literal["trained", "untrained", "none"]


class CanvasUse(Recorded):
    """How the images of one data set are placed on the canvas.

    Attributes:
        num_images: images in the data set.
        num_measured: images whose size was read, evenly spread over the data set.
        padding: mean share of the canvas without image.
        cut: mean share of the image area outside the canvas.
        scale: median scale in canvas pixels per image pixel, the geometric mean of both axes.
        own_scale: the same with the geometry that the catalog gives for these weights; None outside the catalog.
        stretch: median ratio of the larger axis' scale to the smaller one's; 1 keeps the aspect ratio.
    """

    num_images: int
    num_measured: int
    padding: float
    cut: float
    scale: float
    own_scale: float | None = None
    stretch: float


class Observed(Recorded):
    """Properties of the run that were measured for the audit rather than configured.

    Attributes:
        matched: quantities that the study declares equal in all arms.
        llm_positions: number of positions of the language model.
        tap_norm: the last norm that features pass.
        parameters_run: parameters of the backbone that are used in a forward pass.
        canvas: how the images of each data set are placed on the canvas.
    """

    matched: tuple[str, ...] = ()
    llm_positions: int | None = None
    tap_norm: TapNorm | None = None
    parameters_run: int | None = None
    canvas: dict[str, CanvasUse] = Field(default_factory=dict)


class BackboneRecord(Recorded):
    """The frozen backbone.

    Attributes:
        name: catalog name, ``file.py:function`` or ``timm:<model>``.
        family: architecture family; ``own`` or ``timm`` outside the catalog.
        weights_sha256: digest of its weights.
        top1: accuracy of the pretraining in percent, of a file of weights with the card of ``eyeswap pretrain``.
        embed_dim: width of a visual token.
        num_parameters: number of parameters up to the tap.
        token_grid: rows and columns of visual tokens.
        tap: where features are read, in the notation of the family.
        geometry: how images are placed on the canvas, see `eyeswap.geometry.ImageGeometry.canonical`.
        frozen_mode: ``eval``, or ``train`` as in the published study.
    """

    name: str | None = None
    family: str | None = None
    weights_sha256: str | None = None
    top1: float | None = None
    embed_dim: int | None = None
    num_parameters: int | None = None
    token_grid: tuple[int, int] | None = None
    tap: Any = None
    geometry: Geometry | None = None
    frozen_mode: str | None = None

    @property
    def num_tokens(self) -> int | None:
        """Number of visual tokens per image, before the connector."""
        return None if self.token_grid is None else self.token_grid[0] * self.token_grid[1]

    @property
    def canvas_geometry(self) -> Geometry | None:
        """The geometry without colours: the placement of pixels."""
        return self._geometry(colours=False)

    @property
    def colours(self) -> Geometry | None:
        """Mean, standard deviation and fill colour: the encoder's normalisation."""
        return self._geometry(colours=True)

    def _geometry(self, *, colours: bool) -> Geometry | None:
        if self.geometry is None:
            return None
        return {key: value for key, value in self.geometry.items() if (key in COLOUR_KEYS) == colours}


class LanguageModelRecord(Recorded):
    """The language model: its name, and the digest of its files before training."""

    name: str | None = None
    sha256: str | None = None


class ConnectorRecord(Recorded):
    """The connector.

    Attributes:
        kind: its name, see `eyeswap.connector_name`.
        init_digest: digest of its initial weights.
        file_sha256: sha256 of a custom connector's file.
        num_tokens: visual tokens per image behind it; None in older versions, whose connectors kept their number.
    """

    kind: str | None = None
    init_digest: str | None = None
    num_tokens: int | None = None
    file_sha256: str | None = None


class RunRecord(Recorded):
    """The configuration and inputs of a run, ``spec.json``.

    Attributes:
        arm: the arm's name in the study.
        seed: the run's seed.
        recipe_digest: digest of `recipe`.
        backbone: the frozen backbone.
        llm: the language model.
        connector: the network between the two.
        study: the study's name.
        recipe: everything that the study holds fixed.
        model: what determines the trained model; None in records that predate the model digest.
        model_digest: digest of `model`.
        run_digest: what older versions wrote instead, see `eyeswap.planning.plan`.
        data_digest: digest of the training data.
        order_digest: digest of the order of all batches.
        num_steps: number of training steps.
        left_out: how many training records and images were skipped.
        train_prompt: the training prompt for boxes, with ``{expression}``; with ``{question}`` if there are no boxes.
        test_prompt: the prompt of the benchmarks, likewise.
        train_box_frame: frame of the boxes in training: ``original`` image, ``padded-square`` or ``canvas``; None if
            the study does not say.
        test_box_frame: the frame that boxes are scored in, one of these or ``study``.
        benchmarks: the benchmarks asked: names, or files of custom benchmarks.
        may_differ: the factors in which arms may differ.
        observed: measurements for the audit.
        images: how an evaluation showed images; None in training.
        image_digests: digest of the image bytes of each data set, see `eyeswap.data.image_digests`.
    """

    arm: str
    seed: int
    recipe_digest: str
    backbone: BackboneRecord
    llm: LanguageModelRecord
    connector: ConnectorRecord
    study: str | None = None
    recipe: dict[str, Any] | None = None
    model: ModelIdentity | None = None
    model_digest: str | None = None
    run_digest: str | None = None
    data_digest: str | None = None
    order_digest: str | None = None
    num_steps: int | None = None
    left_out: dict[str, int] | None = None
    train_prompt: str | None = None
    test_prompt: str | None = None
    train_box_frame: str | None = None
    test_box_frame: str | None = None
    benchmarks: tuple[str, ...] | None = None
    may_differ: tuple[str, ...] = ()
    observed: Observed = Field(default_factory=Observed)
    images: str | None = None
    image_digests: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """The run's name, ``arm/seed-n``."""
        return run_name(self.arm, self.seed)

    def setting_of_arm(self, key: str) -> Any:
        """Return what the arm itself set of the recipe; None if it did not."""
        return None if self.model is None else self.model.arm.get(key)

    def setting(self, key: str) -> Any:
        """Return a key of the recipe as it applies to the run; None if it is not set or not known."""
        return (self.recipe or {}).get(key) if self.model is None else self.model.setting(key)

    @property
    def backbone_file(self) -> str | None:
        """The sha256 of the file of weights that the arm names for its backbone; None for published weights."""
        return None if self.model is None else self.model.weights.get("backbone_file")

    @property
    def trained(self) -> str:
        """What learnt, see `eyeswap.recipe.Recipe.trained`."""
        default = "connector+llm" if self.setting("lora_rank") is None else "connector+adapters"
        return str(self.setting("trainable") or default)

    @property
    def tunes_backbone(self) -> bool:
        """Whether blocks of the backbone learnt."""
        return self.trained == "connector+llm+blocks"

    @property
    def stages(self) -> str:
        """The stages of training."""
        return str(self.setting("stages") or "one")

    @property
    def num_visual_tokens(self) -> int | None:
        """Visual tokens of an image that the LLM sees."""
        return self.backbone.num_tokens if self.connector.num_tokens is None else self.connector.num_tokens


class AskedBenchmark(Recorded):
    """One benchmark that a run was asked, an entry of ``predictions/benchmarks.json``.

    Attributes:
        group: ``vqa`` or ``localization``.
        title: name for tables.
        metric: what a score of 1 means, such as ``IoU >= 0.5``.
        baseline: name of the trivial baseline.
        num_examples: number of examples asked.
        benchmark: the benchmark's name, or the file of a custom one.
        mode: ``study`` or ``official``.
        questions_digest: digest of the questions and answer keys.
        iou_threshold: smallest IoU of a correct box; None if answers are not boxes.
        identity: the benchmark's name, and a digest of a custom one's files; None in files of older versions.
        subset: number of examples per part that were asked; None for all.
        box_frame: frame that boxes are scored in; None if answers are not boxes, and in older files.
        code_version: digest of the code that asked.
    """

    group: Literal["vqa", "localization"]
    title: str
    metric: str
    baseline: str = "trivial baseline"
    num_examples: int | None = None
    benchmark: str | None = None
    mode: str | None = None
    questions_digest: str | None = None
    iou_threshold: float | None = None
    identity: str | None = None
    subset: int | None = None
    box_frame: str | None = None
    code_version: str | None = None


class EvaluationRecord(Recorded):
    """What a separate evaluation asked and how, ``evaluation.json``.

    Attributes:
        images: ``as-is``, ``blanked`` or ``shuffled``.
        data: root folder of the benchmarks' official files.
    """

    images: str = "as-is"
    data: str | None = None


class ArmRecord(Recorded):
    """An arm as the study declares it: its backbone, and what it overrides of the recipe."""

    backbone: str | None = None
    connector: str | None = None
    tap: str | None = None
    wiring: Wiring | None = None


class StudyRecord(Recorded):
    """The parts of a study, ``study.json``, that readers of runs need.

    Attributes:
        arms: the arms by name.
        recipe: everything that is held fixed.
        may_differ: the factors in which arms may differ; None in files that do not say.
        benchmarks: names, or files of custom benchmarks; None if the study has none.
        subset: number of examples per benchmark part; None for all.
    """

    arms: dict[str, ArmRecord] = Field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    may_differ: tuple[str, ...] | None = None
    benchmarks: tuple[str, ...] | None = None
    subset: int | None = None

    @property
    def benchmark_names(self) -> tuple[str, ...] | None:
        """The benchmarks' short names."""
        if self.benchmarks is None:
            return None
        return tuple(map(benchmark_name, self.benchmarks))


def benchmark_name(origin: str) -> str:
    """Return the short name of a benchmark in a study; that of a custom one is its file's, without suffix."""
    return Path(origin).stem if origin.endswith((".yaml", ".yml")) else origin


class Trial(Recorded):
    """One training of an arm with one learning rate, and its overall average in percent."""

    lr: float
    score: float


class TuningRecord(Recorded):
    """What trials of learning rates chose, ``tuning.json``.

    Attributes:
        rule: by which they were chosen, in words.
        settings: ``tune`` of the study.
        trials: of each arm.
        chosen: learning rate of each arm.
    """

    rule: str
    settings: dict[str, Any]
    trials: dict[str, tuple[Trial, ...]]
    chosen: dict[str, float]


_INDEX = TypeAdapter(dict[str, AskedBenchmark])
_FILE_NAME = re.compile(r"[\w+-][\w.+-]{0,127}")  # predictions are in a file of this name, in the run's folder


def read_index(path: Path) -> dict[str, AskedBenchmark]:
    """Read ``predictions/benchmarks.json``: the benchmarks asked, by name.

    Raises:
        DataError: if it is not valid; the message names file, benchmark and field.
    """
    try:
        index = _INDEX.validate_python(read_json(path))
        for name in index:
            if not _FILE_NAME.fullmatch(name):
                raise DataError(f"{path}: {name[:80]!r} is not the name of a benchmark")
        return index
    except ValidationError as problem:
        raise DataError(f"{path}: {first_problem(problem)}") from None


def write_index(path: Path, index: Mapping[str, AskedBenchmark]) -> None:
    """Write ``predictions/benchmarks.json``, atomically."""
    write_json(path, {name: entry.model_dump(mode="json", exclude_none=True) for name, entry in index.items()})
