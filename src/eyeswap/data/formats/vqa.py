"""VQA v2: questions and annotations share ``question_id``; order is that of the annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eyeswap.data.formats.example import Example
from eyeswap.data.formats.record import (
    Record,
    answers_of,
    read_answers,
    records,
    unique,
    with_kind,
    write_compact_json,
)
from eyeswap.errors import DataError
from eyeswap.files import read_json


def read_vqa(questions: Path, annotations: Path, image_folder: str, split: str = "val2014") -> list[Example]:
    """Read VQA v2.

    Args:
        questions: ``v2_OpenEnded_mscoco_<split>_questions.json``.
        annotations: ``v2_mscoco_<split>_annotations.json``.
        image_folder: folder of the images, relative to the data root.
        split: COCO split, part of the image names.

    Returns:
        Examples whose truth is the human answers; kind is ``answer_type``.

    Raises:
        DataError: naming file and row.
    """
    asked: dict[str, Record] = {}
    for record in records(Record.of(read_json(questions), str(questions)).items("questions"), questions):
        if asked.setdefault(record.identifier("question_id"), record) is not record:
            raise record.fail(f"question {record.identifier('question_id')} occurs twice")
    rows = records(Record.of(read_json(annotations), str(annotations)).items("annotations"), annotations)
    examples = unique([_read(record, asked, image_folder, split) for record in rows], annotations)
    if len(examples) < len(asked):
        answered = {example.example_id for example in examples}
        missing = next(question_id for question_id in asked if question_id not in answered)
        raise asked[missing].fail(f"question {missing} has no annotation in {annotations.name}")
    return examples


def _read(record: Record, asked: dict[str, Record], image_folder: str, split: str) -> Example:
    question_id = record.identifier("question_id")
    if question_id not in asked:
        raise record.fail(f"question {question_id} is not in the questions file")
    image_id = record.integer("image_id")
    if asked[question_id].integer("image_id") != image_id:
        raise record.fail(f"image {image_id}, but question {question_id} is about another image")
    return Example(
        example_id=question_id,
        image=f"{image_folder}/COCO_{split}_{image_id:012d}.jpg",
        image_id=str(image_id),
        subset=split,
        kind=record.text("kind", record.text("answer_type")),
        question=asked[question_id].text("question"),
        truth=read_answers(record),
        details={
            "answer_type": record.text("answer_type"),
            "question_type": record.text("question_type", "other"),
        },
    )


def write_vqa(questions: Path, annotations: Path, examples: Sequence[Example]) -> None:
    """Write both files of VQA v2; ids of questions and images must be whole numbers.

    Raises:
        DataError: if an id is not a whole number or a truth is not a list of answers.
    """
    split = examples[0].subset if examples else "val2014"
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": split, "license": {}}
    asked, answered = [], []
    for example in examples:
        ids = {"image_id": whole(example, example.image_id), "question_id": whole(example, example.raw_id)}
        asked.append({**ids, "question": example.question})
        answers = answers_of(example)
        answer_type = example.details.get("answer_type", example.kind)
        row = {
            "question_type": example.details.get("question_type", "other"),
            "multiple_choice_answer": Counter(answers).most_common(1)[0][0] if answers else "",
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                for number, answer in enumerate(answers, start=1)
            ],
            "answer_type": answer_type,
            **ids,
        }
        answered.append(with_kind(row, example, answer_type))
    write_compact_json(questions, {**head, "task_type": "Open-Ended", "questions": asked})
    write_compact_json(annotations, {**head, "annotations": answered})


def whole(example: Example, value: str) -> int:
    """Return an id as the whole number that the format wants.

    Raises:
        DataError: if it is none.
    """
    if not value.isdecimal():
        raise DataError(f"example {example.example_id}: id {value!r} must be a whole number in this format")
    return int(value)
