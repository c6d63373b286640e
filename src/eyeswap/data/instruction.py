"""LLaVA instruction files: one JSON list of records ``{id, image?, conversations: [{from, value}, ...]}``.

Turns alternate human, gpt, human, ...; records without ``image`` are text only. Ids repeat in the published
665K mix (one image, several sources), so they are not required to be unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.data.formats.record import Record, records, write_compact_json
from eyeswap.errors import DataError
from eyeswap.files import read_json

IMAGE_PLACEHOLDER = "<image>"
_SPEAKERS = ("human", "gpt")


@dataclass(frozen=True)
class Instruction:
    """One training conversation.

    Attributes:
        record_id: id of the file; may repeat.
        image: path of the image relative to the data root; None for text only.
        messages: human, gpt, human, ... as in the file, with ``<image>`` placeholders.
    """

    record_id: str
    image: str | None
    messages: tuple[str, ...]


def read_instructions(path: Path, image_folder: str = "") -> list[Instruction]:
    """Read an instruction file.

    Args:
        path: JSON list of records.
        image_folder: folder that image names are relative to, itself relative to the data root.

    Raises:
        DataError: naming file, row and field.
    """
    return [parse_instruction(record, image_folder) for record in records(read_json(path), path)]


def parse_instruction(record: Record, image_folder: str = "") -> Instruction:
    """Check one record.

    Raises:
        DataError: if a field is missing, speakers do not alternate from ``human``, no answer occurs, or a
            text shows ``<image>`` but the record has no image.
    """
    image = record.text("image") if record.values.get("image") is not None else None
    if image is not None:
        image = record.image_path(image_folder or ".", image).removeprefix("./")
    messages = parse_messages(record)
    if len(messages) < 2:
        raise record.fail("field 'conversations' needs a question and an answer")
    if image is None and any(IMAGE_PLACEHOLDER in message for message in messages[::2]):
        raise record.fail(f"a question shows {IMAGE_PLACEHOLDER} but field 'image' is missing")
    return Instruction(record.identifier("id"), image, messages)


def parse_messages(record: Record) -> tuple[str, ...]:
    """Return the texts of ``conversations``.

    Raises:
        DataError: if speakers do not alternate from ``human``.
    """
    messages = []
    for index, value in enumerate(record.items("conversations")):
        turn = Record.of(value, f"{record.where}: turn {index + 1}")
        speaker, expected = turn.text("from"), _SPEAKERS[index % 2]
        if speaker != expected:
            raise turn.fail(f"field 'from' must be {expected!r} here (turns alternate), found {speaker!r}")
        messages.append(turn.text("value"))
    return tuple(messages)


def write_instructions(path: Path, instructions: Sequence[Instruction]) -> None:
    """Write an instruction file; image paths stay as they are, so read it back with no ``image_folder``.

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
