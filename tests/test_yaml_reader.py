"""YAML is read strictly: whatever is wrong with a file is one line about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyeswap.errors import SpecError
from eyeswap.yaml_reader import MAX_DEPTH, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("question: !!bool maybe", "line 1 column 11: not a valid bool"),
        ("a: 1\nb: !!int x", "line 2 column 4: not a valid int"),
        ("2020-99-99", "not a valid timestamp"),
        ("!!set [a]", "expected a mapping"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("? [a]\n: b", "a key must be plain text"),
        ("a: 1\na: 2", 'key "a" stands twice'),
        ("a: &x 1\nb: *x", "aliases"),
        ("[" * 5000, f"nested deeper than {MAX_DEPTH}"),
        ("- " * 5000, f"nested deeper than {MAX_DEPTH}"),
        ("{a: " * 5000, f"nested deeper than {MAX_DEPTH}"),
        (r'"\ud800"', "lone surrogate"),
        ("a\x00b", "not allowed"),
    ],
)
def test_what_is_no_strict_yaml_is_refused_in_one_line(text: str, reason: str):
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "study.yaml")
    assert str(caught.value).startswith("study.yaml: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_in_scientific_notation_are_numbers():
    assert parse_yaml("lr: 1e-3", "study.yaml") == {"lr": 1e-3}


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "loop", "folder", "nul\0name"])
def test_a_path_that_leads_to_no_file_is_refused_in_one_line(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("a: 1")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpecError, match=r"cannot be read|not a path"):
        read_yaml(tmp_path / name)
