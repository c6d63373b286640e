"""Read YAML the strict way: safe types only, no key twice, and ``1e-3`` is a number.

PyYAML keeps the last of two equal keys without a word and reads ``1e-3`` as text (YAML 1.1): either would
change a study silently.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from eyeswap.errors import SpecError


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f'key "{key.value}" stands twice', key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> Any:
    """Read one YAML document.

    Raises:
        SpecError: if the file is missing or not YAML; the message names file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Read the text of one YAML document.

    Args:
        text: the document.
        source: where it comes from, for messages.

    Raises:
        SpecError: if it is not YAML; the message names source, line and column.
    """
    try:
        for event in yaml.parse(text, _StrictLoader):
            if isinstance(event, yaml.AliasEvent):  # a few aliases can stand for gigabytes
                line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
                raise SpecError(f"{source}: not valid YAML here{line}: aliases (*{event.anchor}) are not supported")
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise SpecError(f"{source}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
