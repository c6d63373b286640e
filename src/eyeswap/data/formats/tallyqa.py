"""TallyQA: a list of rows; ``issimple`` marks questions that need only detection and counting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from eyeswap.data.formats.record import Example, records, unique, with_kind, write_compact_json
from eyeswap.data.formats.vqa import whole
from eyeswap.files import read_json


def read_tallyqa(annotations: Path, image_folder: str, split: str = "test") -> list[Example]:
    """Read ``<split>.json``; only training rows may lack ``issimple``, and then they count as simple.

    Returns:
        Examples whose truth is the count; subset is ``simple`` or ``complex``.

    Raises:
        DataError: naming file and row.
    """
    examples = []
    for record in records(read_json(annotations), annotations):
        count = record.integer("answer")
        if count < 0:
            raise record.fail(f"field 'answer' must not be negative, found {count}")
        is_simple = record.flag("issimple") if split == "test" or "issimple" in record.values else True
        examples.append(
            Example(
                example_id=record.identifier("question_id"),
                image=record.image_path(image_folder, record.text("image")),
                image_id=record.identifier("image_id"),
                subset="simple" if is_simple else "complex",
                kind=record.text("kind", "count"),
                question=record.text("question"),
                truth=count,
            )
        )
    return unique(examples, annotations)


def write_tallyqa(annotations: Path, image_folder: str, examples: Sequence[Example]) -> None:
    """Write TallyQA rows; image names are stored relative to ``image_folder``."""
    rows = []
    for example in examples:
        row = {
            "question_id": whole(example, example.raw_id),
            "question": example.question,
            "image": str(PurePosixPath(example.image).relative_to(image_folder)),
            "image_id": whole(example, example.image_id),
            "answer": example.truth,
            "issimple": example.subset == "simple",
            "data_source": example.details.get("data_source", "amt"),
        }
        rows.append(with_kind(row, example, "count"))
    write_compact_json(annotations, rows)
