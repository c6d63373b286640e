"""GQA: an object ``question_id -> row``, with the program and groups that the official breakdowns need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyeswap.data.formats.record import Example, Record, with_kind, write_compact_json
from eyeswap.files import read_json

_COMMON = ["color", "material", "shape"]  # the official script's possible answers to what two objects have in common


def read_gqa(questions: Path, image_folder: str, split: str = "testdev", choices: Path | None = None) -> list[Example]:
    """Read ``<split>_balanced_questions.json``.

    Args:
        questions: the questions.
        image_folder: folder of the images, relative to the data root.
        split: name of the split.
        choices: ``<split>_choices.json``, the valid and plausible answers of each question, if available.

    Returns:
        Examples whose truth is the only answer; kind is the structural type.

    Raises:
        DataError: naming file and question.
    """
    allowed = {} if choices is None else Record.of(read_json(choices), str(choices)).values
    examples = []
    for question_id, row in Record.of(read_json(questions), str(questions)).values.items():
        record = Record.of(row, f"{questions}: question {question_id}")
        image_id = record.identifier("imageId")
        types = record.record("types", {})
        structural = types.text("structural", "query")
        details = _details(record, types, structural)
        if question_id in allowed:
            lists = Record.of(allowed[question_id], f"{choices}: question {question_id}")
            is_common = "Common" in types.text("detailed", "")
            details |= {name: _COMMON if is_common else lists.items(name) for name in ("valid", "plausible")}
        examples.append(
            Example(
                example_id=question_id,
                image=record.image_path(image_folder, f"{image_id}.jpg"),
                image_id=image_id,
                subset=split,
                kind=record.text("kind", structural),
                question=record.text("question"),
                truth=record.text("answer"),
                details=details,
            )
        )
    return examples


def _details(record: Record, types: Record, structural: str) -> dict[str, Any]:
    groups = record.record("groups", {})
    program = record.items("semantic") if "semantic" in record.values else []
    steps = [Record.of(step, f"{record.where}: field 'semantic'") for step in program]
    return {
        "structural": structural,
        "semantic": types.text("semantic", "other"),
        "program": [[step.text("operation"), step.text("argument", "")] for step in steps],
        "global_group": groups.text("global") if groups.values.get("global") is not None else None,
        "entailed": [str(name) for name in record.items("entailed")] if "entailed" in record.values else [],
    }


def write_gqa(questions: Path, examples: Sequence[Example]) -> None:
    """Write GQA questions, keyed by id."""
    rows: dict[str, Any] = {}
    for example in examples:
        details = example.details
        structural = details.get("structural", example.kind)
        row = {
            "question": example.question,
            "answer": example.truth,
            "fullAnswer": f"{example.truth}.",
            "imageId": example.image_id,
            "isBalanced": True,
            "semantic": [
                {"operation": operation, "argument": argument, "dependencies": []}
                for operation, argument in details.get("program", [])
            ],
            "types": {
                "structural": structural,
                "semantic": details.get("semantic", "other"),
                "detailed": structural,
            },
            "groups": {"global": details.get("global_group"), "local": None},
            "entailed": details.get("entailed", []),
            "equivalent": [example.raw_id],
        }
        rows[example.raw_id] = with_kind(row, example, structural)
    write_compact_json(questions, rows)
