"""TextVQA 0.5.1: the annotations, and a question file with Rosetta OCR tokens joined to them by position.

A line of the question file holds the question, a line ``Reference OCR token: a, b, c`` and, in LLaVA's copy,
the short-answer instruction; the instruction is dropped here because the benchmark's prompt adds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eyeswap.data.formats.example import Example
from eyeswap.data.formats.record import (
    Record,
    answers_of,
    records,
    unique,
    with_kind,
    write_compact_json,
    write_json_lines,
)
from eyeswap.data.formats.vqa import whole
from eyeswap.errors import DataError
from eyeswap.files import read_json, read_json_lines

OCR_HEADER = "\nReference OCR token:"
_INSTRUCTION = "\nAnswer the question using a single word or phrase."


def read_textvqa(
    annotations: Path, ocr_questions: Path | None, image_folder: str, with_ocr: bool = False
) -> list[Example]:
    """Read TextVQA.

    Args:
        annotations: ``TextVQA_0.5.1_val.json``.
        ocr_questions: JSON lines with ``question_id`` (the image id) and ``text``; None takes the questions
            of the annotations.
        image_folder: folder of the images, relative to the data root.
        with_ocr: leave the OCR line in the question.

    Returns:
        Examples whose truth is ten answers; ``details["ocr"]`` is the OCR text.

    Raises:
        DataError: naming file and row; also if the two files differ in length or order.
    """
    rows = list(records(Record.of(read_json(annotations), str(annotations)).items("data"), annotations))
    texts = [record.text("question") for record in rows]
    if ocr_questions is not None:
        texts = _read_texts(ocr_questions, rows)
    elif with_ocr:
        raise DataError(f"{annotations}: the OCR variant needs the question file with OCR tokens beside it")
    pairs = zip(rows, texts, strict=True)
    return unique([_read(record, text, image_folder, with_ocr) for record, text in pairs], annotations)


def _read_texts(path: Path, rows: Sequence[Record]) -> list[str]:
    lines = list(records(read_json_lines(path), path))
    if len(lines) != len(rows):
        raise DataError(f"{path}: {len(lines)} questions, but the annotations have {len(rows)}")
    for line, row in zip(lines, rows, strict=True):
        if "question_id" in line.values and line.identifier("question_id") != row.identifier("image_id"):
            raise line.fail(f"image {line.identifier('question_id')} stands where the annotations have "
                            f"{row.identifier('image_id')}")  # fmt: skip
    return [line.text("text") for line in lines]


def _read(record: Record, text: str, image_folder: str, with_ocr: bool) -> Example:
    image_id = record.identifier("image_id")
    answers = record.items("answers")
    if len(answers) != 10 or not all(isinstance(answer, str) for answer in answers):
        raise record.fail("field 'answers' must be a list of ten texts")
    text = text.removesuffix(_INSTRUCTION)
    question, header, ocr = text.partition(OCR_HEADER)
    return Example(
        example_id=record.identifier("question_id"),
        image=record.image_path(image_folder, f"{image_id}.jpg"),
        image_id=image_id,
        subset=record.text("set_name", "val"),
        kind=record.text("kind", "text"),
        question=question + header + ocr if with_ocr else question,
        truth=tuple(answers),
        details={"ocr": ocr.strip()},
    )


def write_textvqa(annotations: Path, ocr_questions: Path, examples: Sequence[Example]) -> None:
    """Write both files; the question must be without its OCR line, which comes from ``details["ocr"]``."""
    rows, lines = [], []
    for example in examples:
        row = {
            "question": example.question,
            "image_id": example.image_id,
            "answers": answers_of(example),
            "question_id": whole(example, example.raw_id),
            "question_tokens": example.question.split(),
            "set_name": example.subset,
        }
        rows.append(with_kind(row, example, "text"))
        text = f"{example.question}{OCR_HEADER} {example.details.get('ocr', '')}"
        image = f"{example.image_id}.jpg"
        lines.append({"question_id": example.image_id, "image": image, "text": text, "category": "default"})
    write_compact_json(annotations, {"dataset_type": "val", "dataset_version": "0.5.1", "data": rows})
    write_json_lines(ocr_questions, lines)
