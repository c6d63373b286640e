"""Changes of a study or recipe from the command line: ``key=value``, with dots for what lies deeper."""

from __future__ import annotations

from typing import Any

from eyeswap.errors import SpecError
from eyeswap.yaml_reader import parse_yaml


def split_change(change: str) -> tuple[list[str], Any]:
    """Return the keys that lead to what is changed, and its new value, read as YAML.

    Raises:
        SpecError: if it is not of the form ``key=value``.
    """
    key, equals, text = change.partition("=")
    place = key.split(".")
    if not equals or not all(place):
        raise SpecError(f"--set {change}: write key=value, such as lr=1e-5 or execution.recompute=true")
    return place, parse_yaml(text, f"--set {key}")


def apply_change(content: dict[str, Any], place: list[str], value: Any) -> None:
    """Set what lies at a place in nested mappings; mappings on the way are made."""
    for part in place[:-1]:
        if not isinstance(content.setdefault(part, {}), dict):
            content[part] = {}
        content = content[part]
    content[place[-1]] = value
