"""Typed JSON files of a run: the base class of records, and how they are read and written.

Fields that an older version did not record are None. Keys added by a newer version are kept, so that reading and
rewriting a record loses nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from eyeswap.errors import DataError
from eyeswap.files import read_json, write_json


class Recorded(BaseModel):
    """Base class of the records in a run's folder."""

    model_config = ConfigDict(frozen=True, extra="allow")


_Record = TypeVar("_Record", bound=Recorded)


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a JSON file of a run as a record of the given type.

    Raises:
        DataError: if the file is missing or not such a record; the message names file and field.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as problem:
        raise DataError(f"{path}: {first_problem(problem)}") from None


def write_record(path: Path, record: Recorded) -> None:
    """Write a record as JSON, atomically, without the fields that were never set."""
    write_json(path, record.model_dump(mode="json", exclude_unset=True))


def first_problem(problem: ValidationError) -> str:
    """Return the first validation error of a record in one line: field and reason."""
    first = problem.errors()[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        reason = "missing"
    elif first["type"] == "literal_error":
        reason = f"{first['input']} is not one of {first['ctx']['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    elif first["type"] in ("model_type", "dict_type"):
        reason = "expected an object"
    else:
        reason = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r:.60}"
    return f"{field}: {reason}" if field else reason
