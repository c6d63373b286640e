"""VizWiz: one list of rows; a row has no id, so its position (from 0) is the id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from eyeswap.data.formats.example import Example
from eyeswap.data.formats.record import answers_of, read_answers, records, with_kind, write_compact_json
from eyeswap.files import read_json


def read_vizwiz(annotations: Path, image_folder: str) -> list[Example]:
    """Read VizWiz ``val.json``.

    Returns:
        Examples whose truth is the crowd's answers; subset is ``answerable`` or ``unanswerable``.

    Raises:
        DataError: naming file and row.
    """
    examples = []
    for position, record in enumerate(records(read_json(annotations), annotations)):
        name = record.text("image")
        answerable = record.flag("answerable")
        answer_type = record.text("answer_type", "other")
        examples.append(
            Example(
                example_id=str(position),
                image=record.image_path(image_folder, name),
                image_id=PurePosixPath(name).stem,
                subset="answerable" if answerable else "unanswerable",
                kind=record.text("kind", answer_type),
                question=record.text("question"),
                truth=read_answers(record),
                details={"answerable": int(answerable), "answer_type": answer_type},
            )
        )
    return examples


def write_vizwiz(annotations: Path, examples: Sequence[Example]) -> None:
    """Write VizWiz ``val.json``; ids are not stored, positions are."""
    rows = []
    for example in examples:
        answer_type = example.details.get("answer_type", example.kind)
        row = {
            "image": PurePosixPath(example.image).name,
            "question": example.question,
            "answers": [{"answer": text, "answer_confidence": "yes"} for text in answers_of(example)],
            "answer_type": answer_type,
            "answerable": int(example.subset == "answerable"),
        }
        rows.append(with_kind(row, example, answer_type))
    write_compact_json(annotations, rows)
