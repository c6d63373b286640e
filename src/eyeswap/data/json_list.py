"""Reading a JSON list one element at a time: gigabytes in the memory of a single record."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from eyeswap.errors import DataError, MissingFileError
from eyeswap.files import STRICT_JSON

_CHUNK = 1 << 22  # bytes read at a time
_MARGIN = 12  # characters at the end of what was read that may be an incomplete escape, word or number
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json_list(path: Path, advance: Callable[[int], None] = lambda count: None) -> Iterator[Any]:
    """Yield the elements of the list in a JSON file, in order; as strict as `eyeswap.files.parse_json`.

    Args:
        path: the file.
        advance: called with the number of bytes read since the last call.

    Raises:
        DataError: if the file is missing, not UTF-8, or not a single list; naming file, row and line.
    """
    try:
        with path.open("rb") as stream:
            yield from _Window(stream, path, advance).elements()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


class _Window:
    """The part of a file in memory; ``text`` from index ``at`` is not yet parsed."""

    def __init__(self, stream: IO[bytes], path: Path, advance: Callable[[int], None]) -> None:
        self.stream, self.path, self.advance = stream, path, advance
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.text, self.at = "", 0
        self.row, self.line, self.num_bytes = 0, 1, 0

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the list."""
        opening = self._character()
        if opening != "[":
            raise DataError(f"{self.path}: expected a JSON list of records, but it begins with {opening!r}")
        self.at += 1
        while not (self.row == 0 and self._character() == "]"):
            self.row += 1
            self._character()
            yield self._element()
            mark = self._character()
            if mark == "]":
                break
            if mark != ",":
                raise self._fail("expected ',' or ']' after the record", self.at)
            self.at += 1
        self.at += 1
        if self._character():
            raise self._fail("there is text after the list", self.at)

    def _element(self) -> Any:
        while True:
            try:
                value, end = STRICT_JSON.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                at_the_end = error.pos >= len(self.text) - _MARGIN
                if not ((at_the_end or error.msg.startswith("Unterminated string")) and self._more()):
                    raise self._fail(error.msg, error.pos) from None
            except ValueError as error:
                raise self._fail(str(error), self.at) from None
            except RecursionError:
                raise self._fail("nested too deeply", self.at) from None
            else:
                if end < len(self.text) - _MARGIN or not self._more():
                    self.at = end
                    return value

    def _character(self) -> str:
        """Return the next character that is not white space, empty at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Drop parsed text and read more, twice as much as is unparsed; return whether there was more."""
        content = self.stream.read(max(_CHUNK, 2 * (len(self.text) - self.at)))
        try:
            decoded = self.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text (byte {self.num_bytes + error.start})") from None
        if not content:
            return False
        self.line += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :] + decoded, 0
        self.num_bytes += len(content)
        self.advance(len(content))
        return True

    def _fail(self, message: str, at: int) -> DataError:
        line = self.line + self.text.count("\n", 0, at)
        return DataError(f"{self.path}: row {self.row} is not valid JSON, line {line}: {message}")
