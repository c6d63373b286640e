"""A JSON list is read one element at a time, wherever the reads happen to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.data import json_list
from eyeswap.data.json_list import read_json_list
from eyeswap.errors import DataError, MissingFileError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def outcome(path: Path):
    try:
        return list(read_json_list(path))
    except DataError as error:
        return str(error)


@pytest.fixture
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "_CHUNK", 3)


@given(rows=st.lists(values, max_size=5), indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
@settings(max_examples=60)
def test_elements_are_those_of_the_whole_file(tmp_path_factory, rows, indent, ascii_only) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="surrogatepass")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return  # half a character, written raw
    chunk = json_list._CHUNK
    try:
        for json_list._CHUNK in (1, 2, 7):
            assert list(read_json_list(path)) == rows
    finally:
        json_list._CHUNK = chunk


MISTAKES = {
    "": "begins with ''",
    '{"a": 1}': "begins with '{'",
    "[": "row 1 is not valid JSON, line 1: Expecting value",
    '[{"a": 1}': "row 1 is not valid JSON, line 1: expected ',' or ']' after the record",
    '[{"a": 1}\n{"a": 2}]': "row 1 is not valid JSON, line 2: expected ',' or ']'",
    '[{"a": 1},\n {"a": }]': "row 2 is not valid JSON, line 2: Expecting value",
    '[{"a": 1},]': "row 2 is not valid JSON, line 1: Expecting value",
    '[1, "never ends, 3]': "row 2 is not valid JSON, line 1: Unterminated string",
    "[1, tru]": "row 2 is not valid JSON",
    '[1, {"a": 1, "a": 2}]': "row 2 is not valid JSON, line 1: key 'a' stands twice",
    "[1, NaN]": "row 2 is not valid JSON, line 1: NaN is not a JSON number",
    "[1] 2": "there is text after the list",
    "[" * 100_000: "row 1 is not valid JSON, line 1: nested too deeply",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_its_row_and_line(tmp_path: Path, short_reads: None, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    told = outcome(path)
    assert MISTAKES[text] in told
    assert told.startswith(f"{path}: ")


def test_bytes_that_are_no_text_are_told_with_their_place(tmp_path: Path, short_reads: None) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'["good", "\xff"]')
    assert outcome(path) == f"{path}: not UTF-8 text (byte 10)"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        list(read_json_list(tmp_path / "list.json"))
    assert "cannot be read: Is a directory" in outcome(tmp_path)


def test_no_more_than_a_few_elements_are_held(tmp_path: Path, short_reads: None) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(["x" * 50] * 200))
    seen: list[int] = []
    rows = read_json_list(path, seen.append)
    next(rows)
    assert sum(seen) < 500
    assert len(list(rows)) == 199
    assert sum(seen) == path.stat().st_size
    assert math.isclose(max(seen), 64, abs_tol=64)
