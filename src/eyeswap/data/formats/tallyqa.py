"""TallyQA: a list of rows; ``issimple`` marks questions that need only detection and counting."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from eyeswap.data.formats.record import Example, integer_id, records, unique, with_kind, write_compact_json
from eyeswap.errors import DataError
from eyeswap.files import read_json

NUM_COUNTS = 16  # counts that a question offers, 0..15


def choice_message(question: str, choices: Sequence[str]) -> str:
    """Return a multiple-choice question with its options lettered, worded as in the study and in LLaVA's data.

    Raises:
        DataError: if there are more choices than letters.
    """
    if len(choices) > len(string.ascii_uppercase):
        raise DataError(f"a question can offer {len(string.ascii_uppercase)} choices, found {len(choices)}")
    options = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *options, "Answer with the option's letter from the given choices directly."])


def count_message(question: str) -> str:
    """Return a counting question that offers the counts 0 to 15 as letters."""
    return choice_message(question, [str(count) for count in range(NUM_COUNTS)])


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
            "question_id": integer_id(example, example.raw_id),
            "question": example.question,
            "image": str(PurePosixPath(example.image).relative_to(image_folder)),
            "image_id": integer_id(example, example.image_id),
            "answer": example.truth,
            "issimple": example.subset == "simple",
            "data_source": example.details.get("data_source", "amt"),
        }
        rows.append(with_kind(row, example, "count"))
    write_compact_json(annotations, rows)
