"""Read YAML strictly: safe types only, no repeated keys, and ``1e-3`` is a number.

PyYAML silently keeps the last of two equal keys and reads ``1e-3`` as text (YAML 1.1); either would silently change a
study.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from eyeswap.errors import SpecError

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_DEPTH = 50  # nesting of lists and mappings; a study needs five


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and values that do not match their tag (``!!bool maybe``)."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"not a valid {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # other nodes are refused below
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


def parse_own_yaml(text: str) -> Any:
    """Read YAML that comes with the package and can be trusted."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # libyaml's parser is ten times as fast


def read_yaml(path: Path) -> Any:
    """Read one YAML document.

    Raises:
        SpecError: if the file is missing or not YAML; the message names file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except OSError as error:  # a folder, a name that is too long, a path below a file, a loop of links
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise SpecError(f"{str(path)!r}: not a path: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Read the text of one YAML document.

    Args:
        text: the document.
        source: where the text comes from, for messages.

    Raises:
        SpecError: if it is not YAML; the message names source, line and column.
    """
    try:
        _refuse_hostile(text, source)
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise SpecError(f"{source}: not valid YAML{position}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: not valid YAML: {' '.join(str(error).split())[:200]}") from None


def _refuse_hostile(text: str, source: str) -> None:
    """Refuse small texts that are large or slow to load, and characters that cannot be stored in a file.

    Raises:
        SpecError: at the first alias, lone surrogate, or nesting deeper than ``MAX_DEPTH``.
    """
    depth = 0
    for event in yaml.parse(text, _StrictLoader):
        line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
        if isinstance(event, yaml.AliasEvent):  # a few nested aliases can expand to gigabytes
            raise SpecError(f"{source}: not valid YAML here{line}: aliases (*{event.anchor}) are not supported")
        if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
            raise SpecError(f"{source}: not valid YAML{line}: a lone surrogate is not a valid character")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise SpecError(f"{source}: not valid YAML here{line}: nested deeper than {MAX_DEPTH} levels")
