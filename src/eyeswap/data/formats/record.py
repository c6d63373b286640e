"""Common parts of all formats: the example that a row becomes, and checked access to the fields of a row.

Every error message names file, row and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from eyeswap.data.formats.boxes import Box
from eyeswap.errors import DataError
from eyeswap.files import write_text

Truth = tuple[str, ...] | str | int | Box


@dataclass(frozen=True)
class Example:
    """One question about one image, with its ground truth.

    Attributes:
        example_id: id in the file, unique within the benchmark (``adversarial/17``, ``refcoco/12/345``).
        image: path of the image relative to the data root, with forward slashes.
        image_id: id of the image in the file, shared by examples about the same image.
        subset: part of the benchmark that is reported separately (``adversarial``, ``simple``, ``val``).
        kind: kind of question, for breakdowns and the trivial baseline.
        question: the question or referring expression as in the file.
        truth: human answers (VQA), one answer (GQA), a label (POPE), a count (TallyQA) or a box in 0..1 of
            the original image (localization).
        size: (width, height) of the image in pixels, if the file gives it.
        box_px: ``(x1, y1, x2, y2)`` in pixels, for localization.
        details: further official fields that a metric or a writer needs, by their official names.
    """

    example_id: str
    image: str
    image_id: str
    subset: str
    kind: str
    question: str
    truth: Truth
    size: tuple[int, int] | None = None
    box_px: Box | None = None
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def raw_id(self) -> str:
        """The last part of the id, as in the file."""
        return self.example_id.rpartition("/")[2]


@dataclass(frozen=True)
class Record:
    """A JSON object and its location, which begins each error message."""

    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Record:
        """Wrap ``value``.

        Raises:
            DataError: if it is not an object.
        """
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object, found {_name(value)}")
        return cls(value, where)

    def fail(self, message: str) -> DataError:
        """Return an error with the row's location and a message."""
        return DataError(f"{self.where}: {message}")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text field."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.fail(f"field {key!r} must be text, found {_name(value)}")
        return self._unicode(key, value)

    def integer(self, key: str) -> int:
        """Return a whole-number field."""
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail(f"field {key!r} must be a whole number, found {_name(value)}")
        if abs(value) >= 1 << 63:
            raise self.fail(f"field {key!r} is a whole number of more than 64 bits")
        return value

    def flag(self, key: str) -> bool:
        """Return a true/false field; 0 and 1 are accepted too."""
        value = self._value(key)
        if value not in (0, 1):
            raise self.fail(f"field {key!r} must be true or false, found {value!r}")
        return bool(value)

    def identifier(self, key: str) -> str:
        """Return an id field, text or whole number, as text."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.fail(f"field {key!r} must be an id, found {_name(value)}")
        return self._unicode(key, str(value))

    def items(self, key: str) -> list[Any]:
        """Return a list field."""
        value = self._value(key)
        if not isinstance(value, list):
            raise self.fail(f"field {key!r} must be a list, found {_name(value)}")
        return value

    def record(self, key: str, default: Mapping[str, Any] | None = None) -> Record:
        """Return an object field."""
        return Record.of(self._value(key, default), f"{self.where}: field {key!r}")

    def box(self, key: str, value: Any = None) -> Box:
        """Return a field of four finite numbers, or check ``value`` in its place."""
        box = self._value(key) if value is None else value
        numbers = isinstance(box, list | tuple) and all(type(number) in (int, float) for number in box)
        if not numbers or len(box) != 4 or not all(abs(number) < 1e9 for number in box):
            raise self.fail(f"field {key!r} must be a list of four numbers, found {str(box)[:60]}")
        return (box[0], box[1], box[2], box[3])

    def image_path(self, folder: str, name: str) -> str:
        """Return the image path below the data root; a name that leaves its folder is refused."""
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise self.fail(f"image name {name!r} must stay inside {folder}")
        return f"{folder}/{path}"

    def _unicode(self, key: str, text: str) -> str:
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self.fail(f"field {key!r} contains half a character (a lone surrogate), which no file can store")
        return text

    def _value(self, key: str, default: Any = None) -> Any:
        if key in self.values:
            return self.values[key]
        if default is None:
            raise self.fail(f"field {key!r} is missing")
        return default


def records(rows: Any, where: Path | str, noun: str = "row") -> Iterable[Record]:
    """Wrap the rows of a list, counted from 1.

    Raises:
        DataError: if ``rows`` is not a list of objects.
    """
    if not isinstance(rows, list):
        raise DataError(f"{where}: expected a list of {noun}s, found {_name(rows)}")
    for number, row in enumerate(rows, start=1):
        yield Record.of(row, f"{where}: {noun} {number}")


def by_id(rows: Any, where: Path | str, noun: str) -> dict[int, Record]:
    """Return the objects of a list by their whole-number ``id``.

    Raises:
        DataError: if ``rows`` is not a list of objects, or two share an id.
    """
    records_by_id: dict[int, Record] = {}
    for record in records(rows, where, noun):
        number = record.integer("id")
        if number in records_by_id:
            raise record.fail(f"id {number} occurs twice")
        records_by_id[number] = record
    return records_by_id


def unique(examples: Sequence[Example], path: Path) -> list[Example]:
    """Return the examples as a list.

    Raises:
        DataError: if two share an id.
    """
    seen: set[str] = set()
    for number, example in enumerate(examples, start=1):
        if example.example_id in seen:
            raise DataError(f"{path}: example {number}: id {example.example_id!r} occurs twice")
        seen.add(example.example_id)
    return list(examples)


def read_answers(record: Record) -> tuple[str, ...]:
    """Return the human answers of a VQA-style row, ``answers: [{answer: ...}, ...]``."""
    where = f"{record.where}: field 'answers'"
    answers = tuple(Record.of(item, where).text("answer") for item in record.items("answers"))
    if not answers:
        raise record.fail("field 'answers' is empty; a test split without answers cannot be scored")
    return answers


def answers_of(example: Example) -> list[str]:
    """Return the human answers of an example."""
    if not isinstance(example.truth, tuple):
        raise DataError(f"example {example.example_id}: truth must be a list of answers, found {example.truth!r}")
    return [str(answer) for answer in example.truth]


def integer_id(example: Example, value: str) -> int:
    """Return an id as a whole number, which the format requires.

    Raises:
        DataError: if it is not one.
    """
    if not value.isdecimal():
        raise DataError(f"example {example.example_id}: id {value!r} must be a whole number in this format")
    return int(value)


def with_kind(row: dict[str, Any], example: Example, default: str) -> dict[str, Any]:
    """Return the row, with a ``kind`` if it differs from the reader's default."""
    return row if example.kind == default else {**row, "kind": example.kind}


def write_compact_json(path: Path, value: Any) -> None:
    """Write JSON on one line, atomically; equal values give equal bytes."""
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
