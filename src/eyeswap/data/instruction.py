"""LLaVA instruction files: a JSON list of records ``{id, image?, conversations: [{from, value}, ...]}``.

Turns alternate human, gpt, human, ...; records without ``image`` are text only. Ids repeat in the published
665K mix (one image, several sources), so they need not be unique.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.data.formats.record import Record, write_compact_json
from eyeswap.data.json_list import read_json_list
from eyeswap.errors import DataError
from eyeswap.progress import Progress

IMAGE_PLACEHOLDER = "<image>"
_SPEAKERS = ("human", "gpt")


@dataclass(frozen=True)
class Instruction:
    """One training conversation.

    Attributes:
        record_id: id in the file; need not be unique.
        image: path of the image relative to the data root; None for text only.
        messages: human, gpt, human, ... as in the file, with ``<image>`` placeholders.
    """

    record_id: str
    image: str | None
    messages: tuple[str, ...]


def read_instructions(
    path: Path,
    image_folder: str = "",
    board: Progress | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> list[Instruction]:
    """Read an instruction file, record by record.

    Args:
        path: JSON list of records.
        image_folder: folder that image names are relative to, itself relative to the data root.
        board: where progress is shown.
        warn: called with one line (file, row and id) for each unusual record that can still be trained on.

    Raises:
        DataError: naming file, row, id and field; or if the file has no record.
    """
    instructions = [parse_instruction(record, image_folder, warn) for record in _records(path, board)]
    if not instructions:
        raise DataError(f"{path}: has no record")
    return instructions


def _records(path: Path, board: Progress | None) -> Iterator[Record]:
    size_mib = path.stat().st_size >> 20 if board and path.is_file() else 0
    task = board.task(f"read {path.name} (MiB)", size_mib) if board and size_mib else None
    num_bytes = 0

    def advance(count: int) -> None:
        nonlocal num_bytes
        num_bytes += count
        if task:
            task.advance((num_bytes >> 20) - task.done)

    for number, row in enumerate(read_json_list(path, advance), start=1):
        yield Record.of(row, f"{path}: row {number}")


def parse_instruction(
    record: Record, image_folder: str = "", warn: Callable[[str], None] = lambda line: None
) -> Instruction:
    """Check and convert one record; warn if a later question has ``<image>`` although the record has no image.

    Raises:
        DataError: if a field is missing or of the wrong type; if speakers do not alternate starting with ``human``; if
            there is no answer; if the image path leaves its folder; if there is a video; or if ``<image>`` and the
            field ``image`` do not match: an image with no or several placeholders, or a first question with a
            placeholder but no image.
    """
    record_id = record.identifier("id")
    record = Record(record.values, f"{record.where} (id {record_id!r})")
    if record.values.get("video") is not None:
        raise record.fail("field 'video': only images and text are supported; remove this record")
    image = record.text("image") if record.values.get("image") is not None else None
    if image is not None:
        image = record.image_path(image_folder or ".", image).removeprefix("./")
    messages = parse_messages(record)
    if len(messages) < 2:
        raise record.fail("field 'conversations' needs a question and an answer")
    if image is None and _asks_for_image(messages[0]):
        raise record.fail(f"a question contains {IMAGE_PLACEHOLDER} but field 'image' is missing")
    if image is not None:
        _check_placeholders(record, messages)
    else:
        for turn in range(2, len(messages), 2):
            if _asks_for_image(messages[turn]):
                warn(f"{record.where}: turn {turn + 1} contains {IMAGE_PLACEHOLDER}, but the record has no image")
    return Instruction(record_id, image, messages)


def _check_placeholders(record: Record, messages: Sequence[str]) -> None:
    """Check that the questions about an image contain exactly one placeholder."""
    shown = [turn + 1 for turn in range(0, len(messages), 2) for _ in range(messages[turn].count(IMAGE_PLACEHOLDER))]
    if not shown:
        raise record.fail(f"field 'image' is given but no question contains {IMAGE_PLACEHOLDER}; add it to the first")
    if len(shown) > 1:
        turns = ", ".join(map(str, dict.fromkeys(shown)))
        raise record.fail(
            f"{IMAGE_PLACEHOLDER} occurs {len(shown)} times (turns {turns}) for the one image of field 'image'; "
            "keep the first"
        )


def _asks_for_image(question: str) -> bool:
    """Return whether a question begins or ends with the placeholder; elsewhere it may be a quotation (of XML, say)."""
    text = question.strip()
    return text.startswith(IMAGE_PLACEHOLDER) or text.endswith(IMAGE_PLACEHOLDER)


def parse_messages(record: Record) -> tuple[str, ...]:
    """Return the texts of ``conversations``.

    Raises:
        DataError: if speakers do not alternate starting with ``human``.
    """
    return tuple(
        turn["value"]
        if _is_plain(turn, index)
        else _checked(Record.of(turn, f"{record.where}: turn {index + 1}"), index)
        for index, turn in enumerate(record.items("conversations"))
    )


def _is_plain(turn: Any, index: int) -> bool:
    """Return whether a turn needs no further checks, a fast path that nearly all of millions of turns take."""
    if type(turn) is not dict or turn.get("from") != _SPEAKERS[index % 2]:
        return False
    value = turn.get("value")
    return type(value) is str and value.isascii()


def _checked(turn: Record, index: int) -> str:
    speaker, expected = turn.text("from"), _SPEAKERS[index % 2]
    if speaker != expected:
        raise turn.fail(f"field 'from' must be {expected!r} here (turns alternate), found {speaker!r}")
    return turn.text("value")


def write_instructions(path: Path, instructions: Sequence[Instruction]) -> None:
    """Write an instruction file with unchanged image paths; read it back without ``image_folder``.

    Raises:
        DataError: if a conversation has no answer.
    """
    rows = []
    for number, instruction in enumerate(instructions, start=1):
        if len(instruction.messages) < 2:
            raise DataError(f"{path}: record {number}: a conversation needs a question and an answer")
        row: dict[str, Any] = {"id": instruction.record_id}
        if instruction.image is not None:
            row["image"] = instruction.image
        row["conversations"] = [
            {"from": _SPEAKERS[index % 2], "value": message} for index, message in enumerate(instruction.messages)
        ]
        rows.append(row)
    write_compact_json(path, rows)
