"""The study file: one question, one recipe held fixed, and arms that differ only in what they declare.

A study is one YAML file, and `load_study` is its only reader. Any mistake in it becomes one line that names the file,
the field and the nearest valid choice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from eyeswap.backbones.name import BackboneName
from eyeswap.data.official.layout import Split
from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.planning.other_names import hint
from eyeswap.planning.tune_spec import Tune
from eyeswap.recipe import (
    Align,
    Blocks,
    Connector,
    Count,
    Data,
    DigitsData,
    Execution,
    FolderData,
    Positive,
    Recipe,
    Seed,
    Spec,
    Stages,
    Trainable,
    Wiring,
    data_from_text,
    shown,
)
from eyeswap.yaml_reader import parse_yaml, read_yaml

__all__ = ["Arm", "DigitsData", "Factor", "FolderData", "Recipe", "SeedSd", "Study", "load_recipe", "load_study"]

Factor = Literal["backbone", "connector", "geometry", "tap", "wiring", "llm", "lr", "data", "trainable", "stages"]
OF_RECIPE = ("connector", "wiring", "llm", "lr", "data", "trainable", "stages")  # an arm may set these of the recipe
Matched = Literal["tokens", "parameters"]

MAX_NAME = 100  # characters; names become folder names
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def kebab(text: str) -> str:
    """Return a name in kebab-case for a backbone, path or value, made of what stands behind its last slash."""
    return re.sub(r"[^a-z0-9]+", "-", text.rpartition("/")[2].lower()).strip("-")


class Arm(Spec):
    """One arm: a backbone, and the declared differences in how it is connected."""

    backbone: str = Field(description="catalog name, `file.py:function` of your own encoder, or `timm:name`")
    weights: str | None = Field(
        None, description="checkpoint file of the backbone's weights; null: its published ones, or those its code makes"
    )
    connector: Connector | None = Field(None, description="connector of this arm; null: the recipe's")
    geometry: str | None = Field(
        None, description="how images are fitted to the canvas, such as letterbox-224; null: the backbone's default"
    )
    tap: str | None = Field(None, description="where features are read; null: the backbone's default")
    wiring: Wiring | None = Field(None, description="wiring of this arm; null: the recipe's")

    llm: str | None = Field(None, min_length=1, description="language model of this arm; null takes the recipe's")
    lr: Positive | None = Field(None, description="peak learning rate of this arm; null takes the recipe's")
    data: Data | None = Field(
        None, description="training data of this arm; null takes the recipe's, with which every arm is asked"
    )
    trainable: Trainable | None = Field(None, description="what learns in this arm; null takes the recipe's")
    stages: Stages | None = Field(None, description="stages of this arm's training; null takes the recipe's")

    @field_validator("data", mode="before")
    @classmethod
    def _data_from_text(cls, value: Any) -> Any:
        return data_from_text(value)

    @model_serializer(mode="wrap")
    def _without_newer_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that older versions did not know where they are not set."""
        newer = ("weights", "llm", "lr", "data", "trainable", "stages")
        return {key: value for key, value in dump(self).items() if key not in newer or value is not None}

    @field_validator("backbone")
    @classmethod
    def _backbone_exists(cls, name: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder", Path())
        return _resolve_backbone(name, folder)

    @field_validator("weights")
    @classmethod
    def _weights_exist(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is None:
            return None
        file = ((info.context or {}).get("folder", Path()) / path).resolve()
        if not file.is_file():
            raise ValueError(f"{file} does not exist (the path is relative to the study file)")
        return str(file)

    @field_validator("tap", mode="before")
    @classmethod
    def _tap_from_number(cls, tap: Any) -> Any:
        return str(tap) if isinstance(tap, int) and not isinstance(tap, bool) else tap

    @field_validator("geometry", "tap")
    @classmethod
    def _override_exists(cls, text: str | None, info: ValidationInfo) -> str | None:
        backbone = info.data.get("backbone")
        if text is None or backbone is None:
            return text
        from eyeswap.backbones import catalog
        from eyeswap.geometry import DEFAULT_GEOMETRY

        name = BackboneName.parse(backbone)
        try:
            if info.field_name == "geometry":
                DEFAULT_GEOMETRY.override(text)
            elif name.kind == "own":
                raise ValueError("your own backbone defines its tap itself; remove this key")
            elif name.kind == "catalog":
                catalog.entry(backbone).with_changes(tap=text)
        except SpecError as problem:
            raise ValueError(str(problem)) from None
        return text

    @property
    def overrides(self) -> dict[str, Any]:
        """The factors that this arm sets itself, other than the backbone and its weights."""
        declared = self.model_dump(mode="json", exclude={"backbone", "weights"})
        return {key: value for key, value in declared.items() if value is not None}


class SeedSd(Spec):
    """Standard deviation of single runs' scores over seeds, in points, as a study states it."""

    vqa: Positive | None = Field(None, description="standard deviation of the VQA average")
    localization: Positive | None = Field(None, description="standard deviation of the localization average")
    overall: Positive | None = Field(
        None,
        description="standard deviation of the overall average; null: the largest value consistent with the other two",
    )
    df: Positive | None = Field(
        None, description="degrees of freedom of these estimates; null treats them as known exactly"
    )
    source: str | None = Field(None, description="where the values come from, for the report")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.vqa is self.localization is self.overall is None:
            raise ValueError("states nothing; write vqa, localization or overall, such as {vqa: 1.0}")
        return self


def _seed_sd_tag(value: Any) -> str:
    return "folder" if isinstance(value, str) else "numbers"


AnySeedSd = Annotated[
    Annotated[SeedSd, Tag("numbers")] | Annotated[str, Field(min_length=1), Tag("folder")], Discriminator(_seed_sd_tag)
]


class Study(Spec):
    """One question, the recipe held fixed, and the arms compared."""

    name: str = Field(description="kebab-case name, taken from the file name")
    question: str = Field(min_length=1, description="the question the study answers, in one sentence")
    recipe: Recipe = Field(description="what is held fixed")
    arms: dict[str, Arm] = Field(min_length=1, description="kebab-case name of each arm, and its backbone")
    may_differ: tuple[Factor, ...] = Field(("backbone",), description="factors in which arms may differ")
    matched: tuple[Matched, ...] = Field(
        (), description="what the study claims to be equal across arms; plan and audit report where it is not"
    )
    beyond_positions: Literal["refuse", "allow"] = Field(
        "refuse",
        description="whether to refuse an arm with more visual tokens than the language model has positions, or allow "
        "it as the published study does",
    )
    benchmarks: tuple[str, ...] = Field(min_length=1, description="benchmark names, or YAML files of your own")
    seeds: tuple[Seed, ...] = Field((7,), min_length=1, description="one run per arm and seed")
    seed_sd: AnySeedSd | None = Field(
        None,
        description="variation of scores over seeds, for a study of one seed: numbers, or the folder of a study that "
        "measured it with several seeds, such as runs/other; with null, the report only compares these particular runs",
    )
    subset: Count | None = Field(None, description="examples per benchmark part; null evaluates all of them")
    tune: Tune | None = Field(
        None, description="learning rates that every arm tries; the best one makes a further arm, <arm>-tuned"
    )
    execution: Execution = Field(Execution(), description="how training runs on this machine; may change between runs")

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_from_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"backbone": arm} if isinstance(arm, str) else arm for name, arm in value.items()}

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_exist(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        from eyeswap.evaluation import get_benchmark

        folder = (info.context or {}).get("folder", Path())
        origins = [str((folder / name).resolve()) if name.endswith((".yaml", ".yml")) else name for name in names]
        try:
            _without_repeats(tuple(get_benchmark(origin).name for origin in origins))
        except (SpecError, DataError) as problem:
            raise ValueError(str(problem)) from None
        return tuple(origins)

    @field_validator("seeds", "may_differ", "matched")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _without_repeats(values)

    @model_validator(mode="after")
    def _arms_differ_as_declared(self) -> Self:
        for name, arm in self.arms.items():
            if not KEBAB.fullmatch(name):
                raise ValueError(f"arms: {shown(name)} is not a kebab-case name such as vmamba-small")
            if len(name) > MAX_NAME:
                raise ValueError(f"arms: {shown(name)} is longer than {MAX_NAME} characters")
            for key in arm.overrides:
                if key not in self.may_differ:
                    raise ValueError(f"arms.{name}.{key}: arms may not differ here; add {key} to may_differ")
            try:
                self.recipe_of(name)
            except ValidationError as problem:
                raise ValueError(f"arms.{name}: {problem.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        if "backbone" not in self.may_differ and len({(arm.backbone, arm.weights) for arm in self.arms.values()}) > 1:
            raise ValueError("arms: backbones differ; add backbone to may_differ")
        return self

    @model_validator(mode="after")
    def _trials_are_separate(self) -> Self:
        if self.tune is None:
            return self
        if self.tune.on in self.seeds:
            raise ValueError(f"tune.on: results use seed {self.tune.on} (seeds); choose another one for trials")
        if "tuning" in self.arms:
            raise ValueError("arms.tuning: the folder of this name is for trials; rename the arm")
        return self

    @property
    def split(self) -> Split:
        """Which questions are asked."""
        return "eval"

    def recipe_of(self, arm: str) -> Recipe:
        """Return the recipe as it applies to an arm.

        Raises:
            ValidationError: if the arm's own settings do not fit the others.
        """
        own = {key: value for key, value in self.arms[arm].overrides.items() if key in OF_RECIPE}
        return Recipe.model_validate({**self.recipe.model_dump(mode="json"), **own}) if own else self.recipe

    def connector_of(self, arm: str) -> str:
        """Return the connector of an arm, by default the recipe's."""
        return self.arms[arm].connector or self.recipe.connector

    def wiring_of(self, arm: str) -> Wiring:
        """Return the wiring of an arm, by default the recipe's."""
        return self.arms[arm].wiring or self.recipe.wiring


AnyStudy = TypeVar("AnyStudy", bound=Study)


def load_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: the file.
        changes: ``key=value`` changes of its keys, such as ``seeds=[7]`` or ``recipe.lr=1e-5``.

    Raises:
        SpecError: if anything is wrong with it; one line names the file, the field and the nearest valid choice.
    """
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise SpecError(f"{path}: expected a mapping with question, recipe, arms and benchmarks, got {shown(value)}")
    if not KEBAB.fullmatch(path.stem):
        raise SpecError(f"{path}: the file name is the study's name and must be kebab-case, such as my-study.yaml")
    if len(path.stem) > MAX_NAME:
        raise SpecError(f"{path}: the file name is the study's name and must not exceed {MAX_NAME} characters")
    for change in changes:
        apply_change(value, *split_change(change))
    if "name" in value:
        raise SpecError(f"{path}: name: a study is named after its file; remove this key")
    return checked(Study, {"name": path.stem, **value}, path, path.parent)


def checked(model: type[AnyStudy], value: Mapping[str, Any], file: Path, folder: Path) -> AnyStudy:
    """Validate the content of a study file.

    Args:
        model: the kind of study.
        value: the content.
        file: the file it comes from, for messages.
        folder: the folder that relative paths in it start from.

    Raises:
        SpecError: as in `load_study`.
    """
    try:
        return model.model_validate(value, context={"folder": folder})
    except ValidationError as problem:
        raise SpecError(f"{file}: {_one_line(problem)}") from None


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file: the ``recipe`` section of a study in a file of its own.

    Raises:
        SpecError: as in `load_study`.
    """
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as problem:
        raise SpecError(f"{path}: {_one_line(problem, within=['recipe'])}") from None


def split_change(change: str) -> tuple[list[str], Any]:
    """Split a ``key=value`` change into the keys that lead to the value (separated by dots) and the value (YAML).

    Raises:
        SpecError: if it does not have the form ``key=value``.
    """
    key, equals, text = change.partition("=")
    keys = key.split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {change}: write key=value, such as lr=1e-5 or execution.recompute=true")
    return keys, parse_yaml(text, f"--set {key}")


def apply_change(content: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a value in nested mappings, creating those that are missing."""
    for key in keys[:-1]:
        if not isinstance(content.setdefault(key, {}), dict):
            content[key] = {}
        content = content[key]
    content[keys[-1]] = value


def _resolve_backbone(text: str, folder: Path) -> str:
    """Check that a backbone exists; make the path of `file.py:function` absolute."""
    from eyeswap.backbones import catalog

    try:
        name = BackboneName.parse(text, folder.resolve())
        if name.kind == "catalog":
            catalog.entry(text)
    except SpecError as problem:
        raise ValueError(str(problem)) from None
    if name.file is not None and not name.file.is_file():
        raise ValueError(f"{name.file} does not exist (the path is relative to the study file)")
    return str(name)


def _without_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{shown(value)} is listed twice")
    return values


def _one_line(problem: ValidationError, within: Sequence[str] = ()) -> str:
    """Turn the most informative of pydantic's errors into one line: field, what is wrong, what is allowed.

    Args:
        problem: the errors.
        within: keys of the study section that the file contains.
    """
    complaints = problem.errors()
    first = _most_informative(complaints)
    location = [*within, *first["loc"]]
    model = _model_at(location)
    if model in (DigitsData, FolderData):
        del location[location.index("data") + 1]  # pydantic inserts the union's tag, and into seed_sd.<key>
    if model is SeedSd:
        del location[1]
    field = next((model.model_fields[str(key)] for key in reversed(location) if key in model.model_fields), None)
    kind = first["type"]
    if kind == "extra_forbidden":
        advice = hint(str(location[-1]), is_key=True)
        text = f"unknown key; {advice}" if advice else f"unknown key. {nearest(str(location[-1]), model.model_fields)}"
    elif kind == "missing":
        text = "missing"
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        advice = hint(str(first["input"]), is_key=False)
        text = f"unknown value {shown(first['input'])}{'; ' + advice if advice else ''}. "
        text += nearest(str(first["input"]), allowed)
    elif kind == "value_error":
        known = hint(str(first["input"]), is_key=False)
        text = f"unknown value {shown(first['input'])}; {known}" if known else str(first["ctx"]["error"])
    else:
        message = re.sub("tuple", "list", first["msg"].replace("Input should", "should"), flags=re.IGNORECASE)
        text = f"{message[0].lower()}{message[1:]}, got {shown(first['input'])}"
    if field and field.description and kind not in ("extra_forbidden", "value_error"):
        text += f" ({field.description})"
    path = ".".join(str(part) for part in location[len(within) :])
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return f"{path}: {text}{more}" if path else f"{text}{more}"


def _most_informative(complaints: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the error to report: if a key is missing because it is misspelt, the misspelling."""
    unknown = [complaint for complaint in complaints if complaint["type"] == "extra_forbidden"]
    first = complaints[0]
    if first["type"] != "missing":
        return first
    for complaint in unknown:
        is_sibling = complaint["loc"][:-1] == first["loc"][:-1]
        if is_sibling and difflib.get_close_matches(str(complaint["loc"][-1]), [str(first["loc"][-1])], cutoff=0.5):
            return complaint
    return next((complaint for complaint in unknown if hint(str(complaint["loc"][-1]), is_key=True)), first)


def _model_at(location: list[Any]) -> type[Spec]:
    """Return the model that the last key of a location in a study belongs to."""
    match location:
        case ["recipe", "data", "digits", *_]:
            return DigitsData
        case ["recipe", "data", "folder", *_]:
            return FolderData
        case ["tune", _, *_]:
            return Tune
        case ["recipe", "align", _, *_]:
            return Align
        case ["recipe", "blocks", _, *_]:
            return Blocks
        case ["recipe", _, *_]:
            return Recipe
        case ["arms", _, "data", "digits", *_]:
            return DigitsData
        case ["arms", _, "data", "folder", *_]:
            return FolderData
        case ["arms", _, _, *_]:
            return Arm
        case ["execution", _, *_]:
            return Execution
        case ["seed_sd", "numbers", *_]:
            return SeedSd
        case _:
            return Study
