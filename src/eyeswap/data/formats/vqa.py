"""VQA v2, VizWiz and TextVQA: questions with ten human answers, in the order of the annotations.

VQA v2: questions and annotations share ``question_id``. VizWiz: a list of rows without ids, so a row's position (from
0) is its id. TextVQA 0.5.1: annotations, and a question file with Rosetta OCR tokens that is matched to them by
position. A record of it has the question, a line ``Reference OCR token: a, b, c`` and, in LLaVA's copy, the
short-answer instruction, which is removed here because the benchmark's prompt adds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from eyeswap.data.formats.record import (
    Example,
    Record,
    answers_of,
    integer_id,
    read_answers,
    records,
    unique,
    with_kind,
    write_compact_json,
    write_json_lines,
)
from eyeswap.errors import DataError
from eyeswap.files import read_json, read_json_lines

SHORT_ANSWER = "Answer the question using a single word or phrase."
OCR_HEADER = "\nReference OCR token:"


def read_vqa(questions: Path, annotations: Path, image_folder: str, split: str = "val2014") -> list[Example]:
    """Read VQA v2, whose questions and annotations share ``question_id``.

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
        ids = {"image_id": integer_id(example, example.image_id), "question_id": integer_id(example, example.raw_id)}
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
    """Write VizWiz ``val.json``, in which an example's position is its id."""
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


def read_textvqa(
    annotations: Path, ocr_questions: Path | None, image_folder: str, with_ocr: bool = False
) -> list[Example]:
    """Read TextVQA.

    Args:
        annotations: ``TextVQA_0.5.1_val.json``.
        ocr_questions: JSON lines with ``question_id`` (the image id) and ``text``; None for the questions of the
            annotations.
        image_folder: folder of the images, relative to the data root.
        with_ocr: whether to keep the OCR line in the question.

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
        raise DataError(f"{annotations}: the variant with OCR needs the question file with OCR tokens")
    pairs = zip(rows, texts, strict=True)
    return unique([_read_textvqa(record, text, image_folder, with_ocr) for record, text in pairs], annotations)


def _read_texts(path: Path, rows: Sequence[Record]) -> list[str]:
    lines = list(records(read_json_lines(path), path))
    if len(lines) != len(rows):
        raise DataError(f"{path}: {len(lines)} questions, but the annotations have {len(rows)}")
    for line, row in zip(lines, rows, strict=True):
        if "question_id" in line.values and line.identifier("question_id") != row.identifier("image_id"):
            raise line.fail(f"is about image {line.identifier('question_id')}, but the annotations have "
                            f"{row.identifier('image_id')}")  # fmt: skip
    return [line.text("text") for line in lines]


def _read_textvqa(record: Record, text: str, image_folder: str, with_ocr: bool) -> Example:
    image_id = record.identifier("image_id")
    answers = record.items("answers")
    if len(answers) != 10 or not all(isinstance(answer, str) for answer in answers):
        raise record.fail("field 'answers' must be a list of ten texts")
    text = text.removesuffix(f"\n{SHORT_ANSWER}")
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
    """Write both files; the OCR line is made from ``details["ocr"]`` and must not be in the question."""
    rows, lines = [], []
    for example in examples:
        row = {
            "question": example.question,
            "image_id": example.image_id,
            "answers": answers_of(example),
            "question_id": integer_id(example, example.raw_id),
            "question_tokens": example.question.split(),
            "set_name": example.subset,
        }
        rows.append(with_kind(row, example, "text"))
        text = f"{example.question}{OCR_HEADER} {example.details.get('ocr', '')}"
        image = f"{example.image_id}.jpg"
        lines.append({"question_id": example.image_id, "image": image, "text": text, "category": "default"})
    write_compact_json(annotations, {"dataset_type": "val", "dataset_version": "0.5.1", "data": rows})
    write_json_lines(ocr_questions, lines)
