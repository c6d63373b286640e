"""How a run's JSON files are read and written as types.

Whatever an older version did not record is None. Keys that a newer version may add are kept as they are, so that a
record that is read and written again loses nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from eyeswap.errors import DataError
from eyeswap.files import read_json, write_json


class Recorded(BaseModel):
    """Base of everything read from a run's folder."""

    model_config = ConfigDict(frozen=True, extra="allow")


_Record = TypeVar("_Record", bound=Recorded)


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a JSON file of a run.

    Raises:
        DataError: naming file and field, if the file is missing or not of that kind.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as problem:
        raise DataError(f"{path}: {first_problem(problem)}") from None


def write_record(path: Path, record: Recorded) -> None:
    """Write a record as JSON, atomically; fields that were never set stay out."""
    write_json(path, record.model_dump(mode="json", exclude_unset=True))


def first_problem(problem: ValidationError) -> str:
    """Return the first thing that is wrong with a record, in one line: field and reason."""
    first = problem.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        reason = "missing"
    elif first["type"] == "literal_error":
        reason = f"{first['input']} is not one of {first['ctx']['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    elif first["type"] in ("model_type", "dict_type"):
        reason = "expected an object"
    else:
        reason = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r:.60}"
    return f"{place}: {reason}" if place else reason
