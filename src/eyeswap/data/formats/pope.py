"""POPE: one file of JSON lines per split, despite the suffix ``.json``.

There are two published versions: the one that the study pins has 2,910 questions in its random split and misspells
"image" in some; the current one has 3,000 in each. Both are read unchanged. Because ``question_id`` repeats across
splits, ids here are ``split/question_id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from eyeswap.data.formats.record import Example, integer_id, records, unique, with_kind, write_json_lines
from eyeswap.files import read_json_lines

POPE_SPLITS = ("adversarial", "popular", "random")


def read_pope(folder: Path, image_folder: str, splits: Iterable[str] = POPE_SPLITS) -> list[Example]:
    """Read ``coco_pope_<split>.json`` of each split in a folder.

    Returns:
        Examples whose truth is ``yes`` or ``no``; subset is the split.

    Raises:
        DataError: naming file and row.
    """
    examples = []
    for split in splits:
        path = folder / f"coco_pope_{split}.json"
        rows = []
        for record in records(read_json_lines(path), path):
            label = record.text("label")
            if label not in ("yes", "no"):
                raise record.fail(f"label must be yes or no, found {label!r}")
            name = record.text("image")
            rows.append(
                Example(
                    example_id=f"{split}/{record.identifier('question_id')}",
                    image=record.image_path(image_folder, name),
                    image_id=PurePosixPath(name).stem,
                    subset=split,
                    kind=record.text("kind", "existence"),
                    question=record.text("text"),
                    truth=label,
                )
            )
        examples += unique(rows, path)
    return examples


def write_pope(folder: Path, examples: Sequence[Example]) -> None:
    """Write one file per split."""
    for split in dict.fromkeys(example.subset for example in examples):
        rows = [
            with_kind(
                {
                    "question_id": integer_id(example, example.raw_id),
                    "image": PurePosixPath(example.image).name,
                    "text": example.question,
                    "label": example.truth,
                },
                example,
                "existence",
            )
            for example in examples
            if example.subset == split
        ]
        write_json_lines(folder / f"coco_pope_{split}.json", rows)
