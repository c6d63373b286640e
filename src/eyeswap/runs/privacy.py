"""What leaves a machine says nothing of it: absolute paths become the name of the file or folder that they end in.

Runs record where their data, language model and own encoders lie, because the machine that goes on with them needs it.
Reports, tables and archives are read elsewhere, where such a path only tells who made them and on which machine.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

Value = TypeVar("Value")

_START = r"(?:~[\w.-]*|[A-Za-z]:|file:/)?[/\\]"
_WHOLE = re.compile(rf"(?!.*: ){_START}[^\n]*")  # a value that is a path; names of folders may have spaces
_LEADING = re.compile(
    rf"^{_START}(?:[^:\n]*[/\\])?(?=[^/\\:\n]+: )"
)  # the folders of a path that a message begins with
_INSIDE = re.compile(rf"(?<![\w/\\.:~)\]-]){_START}(?:[^/\\\s:;,\"'`<>|()\[\]]+[/\\])+")  # of one inside a text


def without_paths(value: Value) -> Value:
    """Return a value with every absolute path in its texts cut to its last name.

    Args:
        value: a text, number or None, or mappings, lists, tuples and dataclasses of such.

    Example:
        >>> without_paths({"folder": "/Users/jo/llava", "backbone": "/Users/jo/my.py:vit", "at": "see /srv/x/log.txt"})
        {'folder': 'llava', 'backbone': 'my.py:vit', 'at': 'see log.txt'}
    """
    changed: Any = value
    if isinstance(value, str):
        is_path = _WHOLE.fullmatch(value) is not None
        changed = _last_name(value) if is_path else _INSIDE.sub("", _LEADING.sub("", value, count=1))
    elif isinstance(value, Mapping):
        changed = {without_paths(key): without_paths(inner) for key, inner in value.items()}
    elif isinstance(value, list):
        changed = list(map(without_paths, value))
    elif isinstance(value, tuple):
        changed = tuple(map(without_paths, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = dataclasses.replace(value, **without_paths(fields))
    return cast("Value", changed)


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
