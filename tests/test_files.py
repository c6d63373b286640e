from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.errors import DataError
from eyeswap.files import atomic_path, parse_json, read_json, read_json_lines, remove_unfinished
from eyeswap.processes import Terminated

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_strict_json_is_json(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"1": 2, "7": 3, "7": 4}', "key '7' stands twice in one object"),
        ('{"a": [{"b": 1, "b": 1}]}', "key 'b' stands twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1', "line 1 column 8"),
        ("", "line 1 column 1"),
        ("9" * 5000, "5000 digits"),
        ("[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_what_is_not_strict_json_is_refused_in_one_line_that_names_the_file(tmp_path: Path, text, reason):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_lines_name_the_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 1, "a": 2}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl: line 3 is not valid JSON: key 'a' stands twice"):
        read_json_lines(path)


@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_a_folder_or_bytes_in_place_of_a_text_file_are_refused(tmp_path: Path, read):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path)
    (tmp_path / "bytes").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match=r"bytes: not UTF-8 text \(byte 7\)"):
        read(tmp_path / "bytes")


def interrupted_write(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "kept.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        interrupted_write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_ends_as_the_temporary_file_appears_removes_it(tmp_path: Path, monkeypatch):
    opened = os.open

    def open_and_end(*arguments, **options):
        handle = opened(*arguments, **options)
        remove_unfinished()  # as a worker does when SIGTERM strikes
        assert not list(tmp_path.iterdir())
        os.close(handle)
        raise Terminated

    monkeypatch.setattr(os, "open", open_and_end)
    with pytest.raises(Terminated), atomic_path(tmp_path / "new.json"):
        pytest.fail("the file was not opened")
