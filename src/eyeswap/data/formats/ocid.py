"""OCID-Ref: an object ``sentence_id -> row``, in which the box is a JSON text.

The data set's page describes the box as (x, y, width, height). The study reads it as (x1, y1, x2, y2), the only
interpretation that fits the 640x480 images. As an extension, rows may have ``width`` and ``height`` for images of
another size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from eyeswap.data.formats.boxes import Box, normalise_box
from eyeswap.data.formats.record import Example, Record, with_kind, write_compact_json
from eyeswap.errors import DataError
from eyeswap.files import parse_json, read_json

OCID_SIZE = (640, 480)
CLUTTER_LEVELS = ("minimum", "medium", "maximum")
_FIRST_TAKE = {"minimum": 0, "medium": 10, "maximum": 17}


def clutter_level(take_id: int) -> str:
    """Return how cluttered a scene is: objects apart (``minimum``), touching (``medium``) or stacked (``maximum``).

    Raises:
        DataError: if ``take_id`` is not in 0..20.
    """
    if not 0 <= take_id <= 20:
        raise DataError(f"OCID take_id must be 0..20, found {take_id}")
    return next(level for level in reversed(CLUTTER_LEVELS) if take_id >= _FIRST_TAKE[level])


def read_ocid(expressions: Path, image_folder: str) -> list[Example]:
    """Read ``<split>_expressions.json``.

    Returns:
        Examples whose truth is the box in 0..1, rounded to two decimals; subset is the clutter level.

    Raises:
        DataError: naming file and sentence, also for a box outside its image.
    """
    rows = Record.of(read_json(expressions), str(expressions)).values
    return [
        _read(sentence_id, Record.of(row, f"{expressions}: sentence {sentence_id}"), image_folder)
        for sentence_id, row in rows.items()
    ]


def _read(sentence_id: str, record: Record, image_folder: str) -> Example:
    size = OCID_SIZE
    if "width" in record.values:
        size = (record.integer("width"), record.integer("height"))
    take_id = record.integer("take_id")
    if not 0 <= take_id <= 20:
        raise record.fail(f"field 'take_id' must be 0..20, found {take_id}")
    box = _box(record)
    scene = record.text("scene_path")
    return Example(
        example_id=sentence_id,
        image=record.image_path(image_folder, scene),
        image_id=scene,
        subset=clutter_level(take_id),
        kind=record.text("kind", "expression"),
        question=record.text("sentence"),
        truth=normalise_box(box, size, record.where),
        size=size,
        box_px=box,
        details={"take_id": take_id, "class": record.text("class", "object")},
    )


def _box(record: Record) -> Box:
    try:
        value = parse_json(record.text("bbox"))
    except (ValueError, RecursionError):
        raise record.fail(f"field 'bbox' must be a JSON text, found {record.text('bbox')[:60]!r}") from None
    box = record.box("bbox", value)
    if box[0] < 0 or box[1] < 0:
        raise record.fail(f"box {list(box)} begins outside its image")
    return box


def write_ocid(expressions: Path, image_folder: str, examples: Sequence[Example]) -> None:
    """Write OCID-Ref expressions; each example needs ``box_px`` and ``size``, and a clutter level as subset.

    Raises:
        DataError: if an example lacks its box or size.
    """
    rows: dict[str, Any] = {}
    for example in examples:
        if example.box_px is None or example.size is None:
            raise DataError(f"example {example.example_id}: box_px and size are needed to write OCID-Ref")
        scene = str(PurePosixPath(example.image).relative_to(image_folder))
        row: dict[str, Any] = {
            "scene_path": scene,
            "sequence_path": str(PurePosixPath(scene).parent),
            "take_id": example.details.get("take_id", _FIRST_TAKE[example.subset]),
            "scene_id": example.image_id,
            "sub_dataset": example.details.get("sub_dataset", "ARID10"),
            "class": example.details.get("class", "object"),
            "sentence": example.question,
            "tokens": example.question.split(),
            "bbox": json.dumps(list(example.box_px)),
            "sentence_type": example.kind,
        }
        if example.size != OCID_SIZE:
            row["width"], row["height"] = example.size
        rows[example.raw_id] = with_kind(row, example, "expression")
    write_compact_json(expressions, rows)
