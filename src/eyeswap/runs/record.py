"""What a run's JSON files hold, as types: what decided it, what it was asked, and how an evaluation was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from eyeswap.errors import DataError
from eyeswap.files import read_json, write_json
from eyeswap.runs.folder import run_name
from eyeswap.runs.identity import ModelIdentity
from eyeswap.runs.recorded import Recorded, first_problem

COLOUR_KEYS = ("mean", "std", "fill")  # an encoder's own normalisation, no part of where pixels go

Geometry = Mapping[str, Any]
TapNorm = Literal["trained", "untrained", "none"]


class CanvasUse(Recorded):
    """How the images of one data set lie on the canvas.

    Attributes:
        num_images: images in the data set.
        num_measured: images whose size was read, evenly spread over the data set.
        padding: mean share of the canvas that shows no image.
        cut: mean share of the image area that lies beyond the canvas.
        scale: median of canvas pixels an image pixel, the geometric mean of both axes.
        own_scale: the same with the geometry that the catalog gives these weights; None outside of the catalog.
        stretch: median of the larger axis' scale over the smaller one's; 1 keeps the aspect ratio.
    """

    num_images: int
    num_measured: int
    padding: float
    cut: float
    scale: float
    own_scale: float | None = None
    stretch: float


class Observed(Recorded):
    """What was measured for the audit beyond what was asked for.

    Attributes:
        matched: what the study calls equal in all arms.
        llm_positions: positions of the language model.
        tap_norm: which norm the features pass last.
        parameters_run: parameters of the backbone that take part in a forward pass.
        canvas: how the images of each data set lie on the canvas.
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
        family: family of the network; ``own`` or ``timm`` outside of the catalog.
        weights_sha256: digest of its weights.
        embed_dim: width of a visual token.
        num_parameters: parameters up to the tap.
        token_grid: rows and columns of visual tokens.
        tap: where features are read, in the form of its family.
        geometry: how images meet it, see `eyeswap.geometry.ImageGeometry.canonical`.
        frozen_mode: ``eval``, or ``train`` as published.
    """

    name: str | None = None
    family: str | None = None
    weights_sha256: str | None = None
    embed_dim: int | None = None
    num_parameters: int | None = None
    token_grid: tuple[int, int] | None = None
    tap: Any = None
    geometry: Geometry | None = None
    frozen_mode: str | None = None

    @property
    def num_tokens(self) -> int | None:
        """Visual tokens of an image."""
        return None if self.token_grid is None else self.token_grid[0] * self.token_grid[1]

    @property
    def canvas_geometry(self) -> Geometry | None:
        """The geometry without colours: where pixels go."""
        return self._geometry(colours=False)

    @property
    def colours(self) -> Geometry | None:
        """Mean, standard deviation and fill colour: the encoder's own normalisation."""
        return self._geometry(colours=True)

    def _geometry(self, *, colours: bool) -> Geometry | None:
        if self.geometry is None:
            return None
        return {key: value for key, value in self.geometry.items() if (key in COLOUR_KEYS) == colours}


class LanguageModelRecord(Recorded):
    """The language model: its name, and the digest of its folder's files before training."""

    name: str | None = None
    sha256: str | None = None


class ConnectorRecord(Recorded):
    """The connector: its kind, and the digest of the weights that training began with."""

    kind: str | None = None
    init_digest: str | None = None


class RunRecord(Recorded):
    """What decided a run, ``spec.json``.

    Attributes:
        arm: the arm's name in the study.
        seed: of the run.
        recipe_digest: of `recipe`.
        backbone: the frozen backbone.
        llm: the language model.
        connector: the network between the two.
        study: the study's name.
        recipe: all that the study holds fixed.
        model: what decides the trained model; None in records of versions before the model digest.
        model_digest: its digest.
        run_digest: what those versions wrote in its place, see `eyeswap.planning.plan`.
        data_digest: of the training data.
        order_digest: of the order of all batches.
        num_steps: training steps.
        left_out: how many records and images were not trained on.
        train_prompt: how training asks for a box, with ``{expression}``; with ``{question}`` where it does not.
        test_prompt: the same of the benchmarks.
        train_box_frame: what boxes are fractions of in training: ``original`` image, ``padded-square`` or ``canvas``;
            None if the study does not say.
        test_box_frame: the frame that boxes are scored in, one of these or ``study``.
        benchmarks: what was asked: names, or files of own benchmarks.
        may_differ: the factors in which arms may differ.
        observed: what was measured beyond that.
        images: how an evaluation showed images; None in training.
        image_digests: of the bytes of the images of each data set, see `eyeswap.data.image_digests`.
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


class AskedBenchmark(Recorded):
    """What was asked of one benchmark, an entry of ``predictions/benchmarks.json``.

    Attributes:
        group: ``vqa`` or ``localization``.
        title: name for tables.
        metric: what a score of 1 means, such as ``IoU >= 0.5``.
        baseline: name of the trivial baseline.
        num_examples: how many examples were asked.
        benchmark: what the benchmark is made from: its name, or the file of an own one.
        mode: ``study`` or ``official``.
        questions_digest: of the questions and true answers.
        iou_threshold: overlap from which a box is right; None for answers that are no boxes.
        identity: what the benchmark is, with a digest of an own one's files; None in what older versions wrote.
        subset: examples of each part that were asked; None for all of them.
        box_frame: frame that boxes are scored in; None for answers that are no boxes, and in older files.
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
    """What an evaluation apart from the study asked and how, ``evaluation.json``.

    Attributes:
        images: ``as-is``, ``blanked`` or ``shuffled``.
        data: root of the official folders.
    """

    images: str = "as-is"
    data: str | None = None


class ArmRecord(Recorded):
    """What a study declares of an arm: its backbone, and what it sets in place of the recipe's."""

    backbone: str | None = None
    connector: str | None = None


class StudyRecord(Recorded):
    """What readers of runs need of a study, ``study.json``.

    Attributes:
        arms: by name.
        recipe: all that is held fixed.
        benchmarks: names, or files of own benchmarks; None where the study asks none.
        subset: examples of each benchmark part; None for all of them.
    """

    arms: dict[str, ArmRecord] = Field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    benchmarks: tuple[str, ...] | None = None
    subset: int | None = None

    @property
    def benchmark_names(self) -> tuple[str, ...] | None:
        """The benchmarks' short names; that of an own one is its file's."""
        if self.benchmarks is None:
            return None
        return tuple(map(benchmark_name, self.benchmarks))


def benchmark_name(origin: str) -> str:
    """Return the short name of a benchmark that a study names; that of an own one is its file's."""
    return Path(origin).stem if origin.endswith((".yaml", ".yml")) else origin


_INDEX = TypeAdapter(dict[str, AskedBenchmark])


def read_index(path: Path) -> dict[str, AskedBenchmark]:
    """Read ``predictions/benchmarks.json``: what was asked, by benchmark.

    Raises:
        DataError: naming file, benchmark and field.
    """
    try:
        return _INDEX.validate_python(read_json(path))
    except ValidationError as problem:
        raise DataError(f"{path}: {first_problem(problem)}") from None


def write_index(path: Path, index: Mapping[str, AskedBenchmark]) -> None:
    """Write ``predictions/benchmarks.json``, atomically."""
    write_json(path, {name: entry.model_dump(mode="json", exclude_none=True) for name, entry in index.items()})
