"""A study's files as they leave the machine: nothing in them tells of its folders.

A file without an absolute path leaves as it is, byte for byte. In any other the paths are cut to their last names, the
digests of what was cut are taken again, and the seal of the run, which held until now, is made to fit.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eyeswap.evaluation.predictions import CONTENT, questions_digest
from eyeswap.files import digest, parse_json
from eyeswap.runs.folder import RunFolder, StudyFolder
from eyeswap.runs.privacy import without_paths

_DIGESTS = {"recipe": "recipe_digest", "model": "model_digest"}  # of a run's record: what they are digests of
_TEXT_COLUMNS = ("image", "error")  # of predictions: an image outside of the data root, and what was wrong with one
_PAGES = (".html", ".md", ".tex", ".csv")


def changed_on_leaving(paths: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the new content of those files of a study that hold paths of this machine.

    Args:
        paths: name in the study's folder -> file, of all files that leave.

    Raises:
        DataError: if a file cannot be read.
    """
    records = {name: _read(path) for name, path in paths.items() if path.suffix == ".json"}
    changed = {name: _json(_record(value)) for name, value in records.items() if without_paths(value) != value}
    known = sorted({text for value in records.values() for text in _cut_texts(value)}, key=len, reverse=True)
    for name, path in paths.items():
        if path.suffix == ".parquet":
            changed |= _predictions(name, path, changed.get(_index_of(name)) or b"", records.get(_index_of(name)))
        elif path.suffix in _PAGES and path.parent.name == StudyFolder(Path()).report.name:
            page = path.read_text(encoding="utf-8")
            cut = _without(page, known)
            if cut != page:
                changed[name] = cut.encode()
    return changed | _seals(records, changed)


def _read(path: Path) -> Any:
    return parse_json(path.read_text(encoding="utf-8"))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _record(value: Any) -> Any:
    """Return a record without paths, and with the digests of what it holds now."""
    cut = without_paths(value)
    if isinstance(value, dict):
        for part, name in _DIGESTS.items():
            if part in value and value.get(name) == digest(value[part]):
                cut[name] = digest(cut[part])
    return cut


def _cut_texts(value: Any) -> Iterator[str]:
    """Yield every text of a record that is not the same without paths."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _cut_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _cut_texts(inner)
    elif isinstance(value, str) and without_paths(value) != value:
        yield value


def _without(page: str, known: list[str]) -> str:
    """Return a page of an earlier version without the paths that the records have."""
    for text in known:
        for form in (text, html.escape(text)):
            page = page.replace(form, without_paths(form))
    return page


def _index_of(name: str) -> str:
    """Return the name of the file that says what the predictions of a name are about."""
    return f"{name.rpartition('/')[0]}/{RunFolder(Path()).benchmarks.name}"


def _predictions(name: str, path: Path, new_index: bytes, index: Any) -> dict[str, bytes]:
    """Return the new content of a file of predictions, and of the index beside it; nothing if there is no path."""
    table = pq.read_table(path)
    before = table
    for column in set(_TEXT_COLUMNS) & set(table.column_names):
        texts = table.column(column).to_pylist()
        cut = pa.array(list(map(without_paths, texts)), table.schema.field(column).type)
        table = table.set_column(table.column_names.index(column), table.schema.field(column), cut)
    if table.equals(before):
        return {}
    stream = io.BytesIO()
    pq.write_table(table, stream)
    changed = {name: stream.getvalue()}
    index = parse_json(new_index.decode()) if new_index else index
    about = index.get(path.stem, {}) if isinstance(index, dict) else {}
    if about.get("questions_digest") == _questions(about, before):
        about["questions_digest"] = _questions(about, table)
        changed[_index_of(name)] = _json(index)
    return changed


def _questions(about: Mapping[str, Any], table: pa.Table) -> str:
    rows = zip(*(table.column(column).to_pylist() for column in CONTENT), strict=True)
    return questions_digest(about.get("mode") or "study", about.get("box_frame"), rows)


def _seals(records: Mapping[str, Any], changed: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the seals that do not fit what leaves, made to fit."""
    seals = {}
    for name, seal in records.items():
        folder, _, file = name.rpartition("/")
        if file != RunFolder(Path()).seal.name or not isinstance(seal, dict):
            continue
        new = {
            sealed: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for sealed in seal
            if (content := changed.get(f"{folder}/{sealed}")) is not None
        }
        if new:
            seals[name] = _json(seal | new)
    return seals
