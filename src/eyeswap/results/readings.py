"""The IoU of a run's boxes with the ground truth in every box frame: as stored, or recomputed from the answers.

Files of earlier versions store two frames. The others are recomputed from an answer's text, the ground-truth box, the
size of the image (from the image file, if the data are available) and the geometry that the run recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eyeswap.data.formats import Example
from eyeswap.errors import DataError
from eyeswap.evaluation.frames import TEST_BOX_FRAMES, View
from eyeswap.evaluation.grounding import RefCOCO
from eyeswap.evaluation.predictions import iou_column
from eyeswap.images import image_size
from eyeswap.recipe import TestBoxFrame
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.record import EvaluationRecord, RunRecord
from eyeswap.runs.recorded import read_record

Overlaps = list[float | None]

_SCORER = RefCOCO("refcoco", "RefCOCO", "refcoco", 0)  # serves all box benchmarks: the IoU needs no threshold


def overlaps_of(run_dir: Path, table: pa.Table) -> dict[TestBoxFrame, Overlaps]:
    """Return the IoU of every answer in each frame for which it is known; None for answers without a valid box.

    Args:
        run_dir: the folder of the run or evaluation.
        table: its predictions for a box benchmark.

    Raises:
        DataError: if the ground truth of an example is not a box.
    """
    stored = {frame: iou_column(frame) for frame in TEST_BOX_FRAMES if iou_column(frame) in table.column_names}
    overlaps = {frame: table.column(column).to_pylist() for frame, column in stored.items()}
    if len(overlaps) < len(TEST_BOX_FRAMES) and "truth" in table.column_names:
        overlaps = _recomputed(run_dir, table) | overlaps
    return {frame: rows for frame, rows in overlaps.items() if any(overlap is not None for overlap in rows)}


def readings(overlaps: Mapping[TestBoxFrame, Overlaps], threshold: float) -> dict[str, float | None]:
    """Return the share of correct answers in each frame, in 0..1; None where it is unknown."""
    return {
        frame: float(np.mean([overlap is not None and overlap >= threshold for overlap in overlaps[frame]]))
        if frame in overlaps
        else None
        for frame in TEST_BOX_FRAMES
    }


def image_sizes(run_dir: Path, table: pa.Table) -> list[tuple[int, int] | None]:
    """Return the (width, height) of each row's image: as stored, or from the image file; None if neither exists."""
    if "image_width" in table.column_names:
        sides = (table.column(name).to_pylist() for name in ("image_width", "image_height"))
        return [None if width is None else (width, height) for width, height in zip(*sides, strict=True)]
    root = _data_root(run_dir)
    images = table.column("image").to_pylist()
    sizes = {image: image_size(root / image) for image in dict.fromkeys(images)}
    return [sizes[image] for image in images]


def view_of(run_dir: Path) -> View | None:
    """Return how the run's model placed images on its canvas; None if that is not recorded."""
    record = record_if_any(run_dir)
    return None if record is None else View.of_record(record.backbone)


def record_if_any(run_dir: Path) -> RunRecord | None:
    """Return a run's record; None for an evaluation of a model that does not belong to a run."""
    path = RunFolder(run_dir).record
    return read_record(path, RunRecord) if path.is_file() else None


def _recomputed(run_dir: Path, table: pa.Table) -> dict[TestBoxFrame, Overlaps]:
    scorer = replace(_SCORER, view=view_of(run_dir))
    overlaps: dict[TestBoxFrame, Overlaps] = {frame: [] for frame in TEST_BOX_FRAMES}
    for row, size in zip(table.to_pylist(), image_sizes(run_dir, table), strict=True):
        outcome = scorer.score(_example(row, size), row.get("answer") or str(row.get("box")))
        for frame in TEST_BOX_FRAMES:
            overlaps[frame].append(outcome.overlaps[frame] if row.get("error") is None else None)
    return overlaps


def _example(row: Mapping[str, Any], size: tuple[int, int] | None) -> Example:
    try:
        truth = json.loads(row["truth"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"example {row['example_id']}: truth {row.get('truth')!r} is not JSON") from None
    box = tuple(truth) if isinstance(truth, list) else truth
    return Example(row["example_id"], row["image"], row["image"], row["subset"], "", "", box, size=size)


def _data_root(run_dir: Path) -> Path:
    """Return the folder that a run's image paths are relative to, according to its records."""
    folder, record = RunFolder(run_dir), record_if_any(run_dir)
    evaluated = read_record(folder.evaluation, EvaluationRecord).data if folder.evaluation.is_file() else None
    trained = ((record and record.recipe) or {}).get("data", {}).get("folder")
    root = evaluated or trained
    return Path(root) if root else folder.study.data
