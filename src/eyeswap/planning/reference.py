"""The reference of the study file, generated from the field descriptions so that it cannot go stale."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from eyeswap.evaluation import BENCHMARKS, TEST_SPLITS
from eyeswap.planning.spec import Arm, SeedSd, Study
from eyeswap.planning.tune_spec import Tune
from eyeswap.recipe import Align, Blocks, DigitsData, Execution, FolderData, Recipe

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("A study", Study),
    ("`recipe`", Recipe),
    ("`recipe.data`, the embedded set", DigitsData),
    ("`recipe.data`, a folder", FolderData),
    ("`recipe.blocks`", Blocks),
    ("`recipe.align`", Align),
    ("Each of `arms`", Arm),
    ("`seed_sd`, in numbers", SeedSd),
    ("`tune`", Tune),
    ("`execution`", Execution),
)


def study_reference() -> str:
    """Return every key of a study file as Markdown tables: key, default, meaning, choices."""
    return "\n\n".join(f"### {title}\n\n{_table(model)}" for title, model in SECTIONS)


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        if model is Study and key == "name":
            continue  # taken from the file name
        is_list = get_origin(field.annotation) is tuple
        choices = (*BENCHMARKS, *TEST_SPLITS) if key == "benchmarks" else _choices(field.annotation)
        words = ", ".join(f"`{choice}`" for choice in choices)
        allowed = f" ({'any' if is_list else 'one'} of {words})" if len(choices) > 1 else ""
        rows.append(f"| `{key}` | {_default(field)} | {field.description}{allowed} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "`null`"
    if isinstance(field.default, tuple):
        return f"`[{', '.join(map(str, field.default))}]`"
    if isinstance(field.default, BaseModel):
        return "see below"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the literal values that an annotation allows, including those inside unions and tuples."""
    if get_origin(annotation) is Literal:
        return tuple(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType, tuple):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    return ()
