"""How a run's answers overlap with the true boxes in each frame: as stored, or worked out again from the answers.

Files of earlier versions hold two frames. For the others an answer's text and the true box are enough, with the size of
the image (from the file itself, if the data are at hand) and the geometry that the run recorded.
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

_SCORER = RefCOCO("refcoco", "RefCOCO", "refcoco", 0)  # of any box benchmark: overlaps know no threshold


def overlaps_of(run_dir: Path, table: pa.Table) -> dict[TestBoxFrame, Overlaps]:
    """Return the overlap of every answer in each frame that is known; None for answers that are no box.

    Args:
        run_dir: the folder of the run or evaluation.
        table: its predictions of a box benchmark.

    Raises:
        DataError: if a truth is no box.
    """
    stored = {frame: iou_column(frame) for frame in TEST_BOX_FRAMES if iou_column(frame) in table.column_names}
    found = {frame: table.column(column).to_pylist() for frame, column in stored.items()}
    if len(found) < len(TEST_BOX_FRAMES) and "truth" in table.column_names:
        found = _worked_out(run_dir, table) | found
    return {frame: rows for frame, rows in found.items() if any(overlap is not None for overlap in rows)}


def readings(overlaps: Mapping[TestBoxFrame, Overlaps], threshold: float) -> dict[str, float | None]:
    """Return the share of right answers in each frame, in 0..1; None where it is not known."""
    return {
        frame: float(np.mean([one is not None and one >= threshold for one in overlaps[frame]]))
        if frame in overlaps
        else None
        for frame in TEST_BOX_FRAMES
    }


def image_sizes(run_dir: Path, table: pa.Table) -> list[tuple[int, int] | None]:
    """Return the (width, height) of each row's image: as stored, else from the image; None where neither is there."""
    if "image_width" in table.column_names:
        sides = (table.column(name).to_pylist() for name in ("image_width", "image_height"))
        return [None if width is None else (width, height) for width, height in zip(*sides, strict=True)]
    root = _data_root(run_dir)
    images = table.column("image").to_pylist()
    sizes = {image: image_size(root / image) for image in dict.fromkeys(images)}
    return [sizes[image] for image in images]


def view_of(run_dir: Path) -> View | None:
    """Return how the model of a run saw images; None if that is not recorded."""
    record = record_if_any(run_dir)
    return None if record is None else View.of_record(record.backbone)


def record_if_any(run_dir: Path) -> RunRecord | None:
    """Return a run's record; None for an evaluation of a model that belongs to no run."""
    path = RunFolder(run_dir).record
    return read_record(path, RunRecord) if path.is_file() else None


def _worked_out(run_dir: Path, table: pa.Table) -> dict[TestBoxFrame, Overlaps]:
    scorer = replace(_SCORER, view=view_of(run_dir))
    found: dict[TestBoxFrame, Overlaps] = {frame: [] for frame in TEST_BOX_FRAMES}
    for row, size in zip(table.to_pylist(), image_sizes(run_dir, table), strict=True):
        outcome = scorer.score(_example(row, size), row.get("answer") or str(row.get("box")))
        for frame in TEST_BOX_FRAMES:
            found[frame].append(outcome.overlaps[frame] if row.get("error") is None else None)
    return found


def _example(row: Mapping[str, Any], size: tuple[int, int] | None) -> Example:
    try:
        truth = json.loads(row["truth"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"example {row['example_id']}: truth {row.get('truth')!r} is no JSON text") from None
    box = tuple(truth) if isinstance(truth, list) else truth
    return Example(row["example_id"], row["image"], row["image"], row["subset"], "", "", box, size=size)


def _data_root(run_dir: Path) -> Path:
    """Return the folder that a run's image paths are relative to, as far as its records tell."""
    folder, record = RunFolder(run_dir), record_if_any(run_dir)
    evaluated = read_record(folder.evaluation, EvaluationRecord).data if folder.evaluation.is_file() else None
    trained = ((record and record.recipe) or {}).get("data", {}).get("folder")
    root = evaluated or trained
    return Path(root) if root else folder.study.data
