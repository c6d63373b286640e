"""What a study is: one question, one recipe held fixed, and the arms that differ in what they declare.

A study is one YAML file, and `load_study` is its only reader: whatever is wrong with a file becomes one
line that names the file, the field and the nearest valid choice.
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
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from eyeswap.backbones.name import BackboneName
from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.planning.changes import apply_change, split_change
from eyeswap.planning.other_names import hint
from eyeswap.recipe import (
    ConnectorKind,
    Count,
    DigitsData,
    Execution,
    FolderData,
    Positive,
    Recipe,
    Seed,
    Spec,
    Wiring,
    shown,
)
from eyeswap.yaml_reader import read_yaml

__all__ = ["Arm", "DigitsData", "Factor", "FolderData", "Recipe", "SeedSd", "Study", "load_recipe", "load_study"]

Factor = Literal["backbone", "connector", "geometry", "tap", "wiring"]
Matched = Literal["tokens", "parameters"]

MAX_NAME = 100  # characters; names become folders
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Arm(Spec):
    """One treatment: a backbone, and the declared differences in how it is connected."""

    backbone: str = Field(description="catalog name, `file.py:function` of your own, or `timm:name`")
    connector: ConnectorKind | None = Field(None, description="connector of this arm; null takes the recipe's")
    geometry: str | None = Field(
        None,
        description="how an image meets its canvas, such as letterbox-224; null takes the backbone's own",
    )
    tap: str | None = Field(None, description="where features are read; null takes the backbone's own")
    wiring: Wiring | None = Field(None, description="wiring of this arm; null takes the recipe's")

    @field_validator("backbone")
    @classmethod
    def _backbone_exists(cls, name: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder", Path())
        return _resolve_backbone(name, folder)

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
                raise ValueError("a backbone of your own decides its tap itself")
            elif name.kind == "catalog":
                catalog.entry(backbone).with_changes(tap=text)
        except SpecError as problem:
            raise ValueError(str(problem)) from None
        return text

    @property
    def overrides(self) -> dict[str, str]:
        """The factors that this arm sets itself, the backbone aside."""
        return {key: value for key, value in self.model_dump().items() if value is not None and key != "backbone"}


class SeedSd(Spec):
    """How much scores of single runs vary from seed to seed, where a study states it: s.d. in points."""

    vqa: Positive | None = Field(None, description="of the VQA average")
    localization: Positive | None = Field(None, description="of the localization average")
    overall: Positive | None = Field(
        None, description="of the overall average; null takes the most that the other two allow"
    )
    df: Positive | None = Field(
        None, description="degrees of freedom that they were measured with; null takes them as known"
    )
    source: str | None = Field(None, description="where they come from, for the report")

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
    question: str = Field(min_length=1, description="what the study asks, in one sentence")
    recipe: Recipe = Field(description="what is held fixed")
    arms: dict[str, Arm] = Field(min_length=1, description="kebab-case name of each arm and its backbone")
    may_differ: tuple[Factor, ...] = Field(("backbone",), description="factors in which arms may differ")
    matched: tuple[Matched, ...] = Field(
        (), description="what the study calls equal in all arms; plan and audit say where it is not"
    )
    beyond_positions: Literal["refuse", "allow"] = Field(
        "refuse",
        description="an arm with more visual tokens than the language model has positions: refuse to run it, or allow "
        "it, as the published study does",
    )
    benchmarks: tuple[str, ...] = Field(min_length=1, description="names of benchmarks, or YAML files of your own ones")
    seeds: tuple[Seed, ...] = Field((7,), min_length=1, description="one run for each arm and seed")
    seed_sd: AnySeedSd | None = Field(
        None,
        description="how much scores vary from seed to seed, for a study of one seed: numbers, or the folder of a "
        "study that shows it with several seeds, such as runs/other; with null, a report speaks of these runs alone",
    )
    subset: Count | None = Field(None, description="examples of each benchmark part; null evaluates all of them")
    execution: Execution = Field(
        Execution(), description="how training is carried out on this machine; may change between runs"
    )

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
        if "backbone" not in self.may_differ and len({arm.backbone for arm in self.arms.values()}) > 1:
            raise ValueError("arms: backbones differ; add backbone to may_differ")
        return self

    def connector_of(self, arm: str) -> ConnectorKind:
        """Return the connector of an arm: its own, or the recipe's."""
        return self.arms[arm].connector or self.recipe.connector

    def wiring_of(self, arm: str) -> Wiring:
        """Return the wiring of an arm: its own, or the recipe's."""
        return self.arms[arm].wiring or self.recipe.wiring


AnyStudy = TypeVar("AnyStudy", bound=Study)


def load_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: the file.
        changes: of its keys as ``key=value``, such as ``seeds=[7]`` or ``recipe.lr=1e-5``.

    Raises:
        SpecError: for whatever is wrong with it, in one line: file, field, nearest valid choice.
    """
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise SpecError(f"{path}: expected a mapping with question, recipe, arms and benchmarks, got {shown(value)}")
    if not KEBAB.fullmatch(path.stem):
        raise SpecError(f"{path}: the file name is the study's name and must be kebab-case, such as my-study.yaml")
    if len(path.stem) > MAX_NAME:
        raise SpecError(f"{path}: the file name is the study's name and may have {MAX_NAME} characters")
    for change in changes:
        apply_change(value, *split_change(change))
    if "name" in value:
        raise SpecError(f"{path}: name: a study is named by its file; remove this key")
    return checked(Study, {"name": path.stem, **value}, path, path.parent)


def checked(model: type[AnyStudy], value: Mapping[str, Any], file: Path, folder: Path) -> AnyStudy:
    """Return a study made of plain values.

    Args:
        model: which kind.
        value: the values.
        file: where they come from, for messages.
        folder: what paths in it are relative to.

    Raises:
        SpecError: as `load_study`.
    """
    try:
        return model.model_validate(value, context={"folder": folder})
    except ValidationError as problem:
        raise SpecError(f"{file}: {_one_line(problem)}") from None


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file: what stands under ``recipe`` in a study, by itself.

    Raises:
        SpecError: as `load_study`.
    """
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as problem:
        raise SpecError(f"{path}: {_one_line(problem, within=['recipe'])}") from None


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
    """Turn the first of pydantic's complaints into one line: field, what is wrong, what is allowed.

    Args:
        problem: the complaints.
        within: where in a study the file's content stands.
    """
    complaints = problem.errors()
    first = _most_telling(complaints)
    location = [*within, *first["loc"]]
    model = _model_at(location)
    if model in (DigitsData, FolderData):
        del location[2]  # pydantic adds the tag of the union to recipe.data.<key>, and to seed_sd.<key>
    if model is SeedSd:
        del location[1]
    field = next((model.model_fields[str(key)] for key in reversed(location) if key in model.model_fields), None)
    kind = first["type"]
    if kind == "extra_forbidden":
        known = hint(str(location[-1]), is_key=True)
        text = f"unknown key; {known}" if known else f"unknown key. {nearest(str(location[-1]), model.model_fields)}"
    elif kind == "missing":
        text = "missing"
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        known = hint(str(first["input"]), is_key=False)
        text = f"unknown value {shown(first['input'])}{'; ' + known if known else ''}. "
        text += nearest(str(first["input"]), allowed)
    elif kind == "value_error":
        text = str(first["ctx"]["error"])
    else:
        told = re.sub("tuple", "list", first["msg"].replace("Input should", "should"), flags=re.IGNORECASE)
        text = f"{told[0].lower()}{told[1:]}, got {shown(first['input'])}"
    if field and field.description and kind not in ("extra_forbidden", "value_error"):
        text += f" ({field.description})"
    where = ".".join(str(part) for part in location[len(within) :])
    more = f" ({len(complaints) - 1} more after this one)" if len(complaints) > 1 else ""
    return f"{where}: {text}{more}" if where else f"{text}{more}"


def _most_telling(complaints: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the complaint to show: where a key is missing and a misspelt one stands beside it, the misspelt one."""
    unknown = [complaint for complaint in complaints if complaint["type"] == "extra_forbidden"]
    first = complaints[0]
    if first["type"] != "missing":
        return first
    for complaint in unknown:
        beside = complaint["loc"][:-1] == first["loc"][:-1]
        if beside and difflib.get_close_matches(str(complaint["loc"][-1]), [str(first["loc"][-1])], cutoff=0.5):
            return complaint
    return next((complaint for complaint in unknown if hint(str(complaint["loc"][-1]), is_key=True)), first)


def _model_at(location: list[Any]) -> type[Spec]:
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
        case ["execution", _, *_]:
            return Execution
        case ["seed_sd", "numbers", *_]:
            return SeedSd
        case _:
            return Study
