"""RefCOCO, RefCOCO+ and RefCOCOg: a pickle of expressions and a COCO ``instances.json`` with the boxes.

There is one example per sentence (its cleaned text ``sent``). The image name is built from ``image_id``, because the
pickle's ``file_name`` has a suffix that no image has. The pickle is read by a restricted unpickler that accepts plain
data only.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyeswap.data.formats.boxes import Box, normalise_box, xywh_to_xyxy
from eyeswap.data.formats.record import (
    Example,
    Record,
    by_id,
    integer_id,
    records,
    unique,
    with_kind,
    write_compact_json,
)
from eyeswap.errors import DataError
from eyeswap.files import read_json, write_bytes
from eyeswap.pickles import read_plain_pickle

_PICKLE_PROTOCOL = 2  # that of the published files


def read_refer(refs: Path, instances: Path, image_folder: str, name: str, split: str = "val") -> list[Example]:
    """Read the expressions of one split.

    Args:
        refs: ``refs(<author>).p``.
        instances: ``instances.json``.
        image_folder: folder of the COCO train2014 images, relative to the data root.
        name: data set, the first part of the ids (``refcoco/<ref_id>/<sent_id>``).
        split: ``train``, ``val``, ``testA``, ``testB`` or ``test``.

    Returns:
        Examples whose truth is the box in 0..1, rounded to two decimals.

    Raises:
        DataError: naming file and row, also for a box outside its image.
    """
    content = Record.of(read_json(instances), str(instances))
    images = by_id(content.items("images"), instances, "image")
    annotations = by_id(content.items("annotations"), instances, "annotation")
    categories = by_id(content.items("categories"), instances, "category")
    examples: list[Example] = []
    for record in records(read_plain_pickle(refs), refs):
        if record.text("split") != split:
            continue
        image_id = record.integer("image_id")
        annotation = annotations.get(record.integer("ann_id"))
        if annotation is None or image_id not in images:
            raise record.fail(f"annotation {record.integer('ann_id')} or image {image_id} is not in {instances.name}")
        if annotation.integer("image_id") != image_id:
            raise record.fail(f"image {image_id}, but annotation {record.integer('ann_id')} is of another image")
        size = _size(images[image_id])
        box = _box(annotation)
        category = categories.get(annotation.integer("category_id"))
        sentences = list(records(record.items("sentences"), record.where, "sentence"))
        if not sentences:
            raise record.fail("field 'sentences' is empty")
        for sentence in sentences:
            examples.append(
                Example(
                    example_id=f"{name}/{record.identifier('ref_id')}/{sentence.identifier('sent_id')}",
                    image=f"{image_folder}/COCO_train2014_{image_id:012d}.jpg",
                    image_id=str(image_id),
                    subset=split,
                    kind=sentence.text("kind", "expression"),
                    question=sentence.text("sent"),
                    truth=normalise_box(box, size, annotation.where),
                    size=size,
                    box_px=box,
                    details={
                        "category": "object" if category is None else category.text("name"),
                        "ann_id": annotation.integer("id"),
                    },
                )
            )
    return unique(examples, refs)


def refer_splits(refs: Path) -> dict[str, int]:
    """Return the number of sentences of each split in a ``refs(<author>).p``.

    Raises:
        DataError: naming file and row.
    """
    counts: dict[str, int] = {}
    for record in records(read_plain_pickle(refs), refs):
        split = record.text("split")
        counts[split] = counts.get(split, 0) + len(record.items("sentences"))
    return counts


def _size(record: Record) -> tuple[int, int]:
    return record.integer("width"), record.integer("height")


def _box(annotation: Record) -> Box:
    x, y, width, height = annotation.box("bbox")
    if x < 0 or y < 0:
        raise annotation.fail(f"box {[x, y, width, height]} begins outside its image")
    return xywh_to_xyxy((x, y, width, height))


def write_refer(refs: Path, instances: Path, examples: Sequence[Example]) -> None:
    """Write the pickle and ``instances.json``; examples that share a ``ref_id`` become one ref.

    Each example needs ``box_px`` and ``size``; subset is its split. ``details`` may give ``category`` and
    ``ann_id`` (default: the ref id). The pickle has no memo, so equal examples give equal bytes.

    Raises:
        DataError: if an example lacks its box or size, or an id is not a whole number.
    """
    names = sorted({str(example.details.get("category", "object")) for example in examples})
    category_ids = {name: number for number, name in enumerate(names, start=1)}
    images: dict[int, dict[str, Any]] = {}
    annotations: dict[int, dict[str, Any]] = {}
    rows: dict[int, dict[str, Any]] = {}
    for example in examples:
        if example.box_px is None or example.size is None:
            raise DataError(f"example {example.example_id}: box_px and size are needed to write REFER files")
        image_id = integer_id(example, example.image_id)
        ref_id = integer_id(example, example.example_id.split("/")[-2])
        sent_id = integer_id(example, example.raw_id)
        ann_id = int(example.details.get("ann_id", ref_id))
        category_id = category_ids[str(example.details.get("category", "object"))]
        file_name = f"COCO_train2014_{image_id:012d}.jpg"
        width, height = example.size
        images[image_id] = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        annotations[ann_id] = _annotation(ann_id, image_id, category_id, example.box_px)
        row = rows.setdefault(
            ref_id,
            {
                "ref_id": ref_id,
                "ann_id": ann_id,
                "category_id": category_id,
                "image_id": image_id,
                "file_name": f"{file_name[:-4]}_{ann_id}.jpg",
                "split": example.subset,
                "sent_ids": [],
                "sentences": [],
            },
        )
        text = example.question
        sentence = {"raw": text, "sent": text, "sent_id": sent_id, "tokens": text.split()}
        row["sent_ids"].append(sent_id)
        row["sentences"].append(with_kind(sentence, example, "expression"))
    _write_plain_pickle(refs, list(rows.values()))
    categories = [{"id": number, "name": name, "supercategory": "object"} for name, number in category_ids.items()]
    content = {
        "images": list(images.values()),
        "annotations": list(annotations.values()),
        "categories": categories,
    }
    write_compact_json(instances, {"info": {}, "licenses": [], **content})


def _annotation(ann_id: int, image_id: int, category_id: int, box: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }


def _write_plain_pickle(path: Path, value: Any) -> None:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=_PICKLE_PROTOCOL)
    pickler.fast = True  # without memo, bytes depend only on values and not on which objects are shared
    pickler.dump(value)
    write_bytes(path, buffer.getvalue())
