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

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_DEPTH = 50  # of lists and mappings in one another; a study needs five


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, and tags whose text is of another kind (``!!bool maybe``)."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this is no {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # others are refused below
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
    """Read YAML that comes with the package, which is neither strange nor hostile."""
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
        source: where it comes from, for messages.

    Raises:
        SpecError: if it is not YAML; the message names source, line and column.
    """
    try:
        _refuse_traps(text, source)
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise SpecError(f"{source}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: not valid YAML: {' '.join(str(error).split())[:200]}") from None


def _refuse_traps(text: str, source: str) -> None:
    """Refuse what is small as text and large, or slow, as YAML, and text that no file can hold.

    Raises:
        SpecError: at the first alias or lone surrogate, or where lists and mappings are nested deeper than
            ``MAX_DEPTH``.
    """
    depth = 0
    for event in yaml.parse(text, _StrictLoader):
        line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
        if isinstance(event, yaml.AliasEvent):  # a few aliases can stand for gigabytes
            raise SpecError(f"{source}: not valid YAML here{line}: aliases (*{event.anchor}) are not supported")
        if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
            raise SpecError(f"{source}: not valid YAML{line}: half a character (a lone surrogate) cannot be stored")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise SpecError(f"{source}: not valid YAML here{line}: nested deeper than {MAX_DEPTH} levels")
