"""Rescore a run's stored predictions, in either mode, without the model.

Nothing is written. Fields that the predictions lack (the official fields of examples, in files of earlier versions) are
read from the data root if one is given; otherwise the metrics that need them are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from eyeswap.data.formats import Example
from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.benchmark import Answer, Benchmark, Mode, Outcome
from eyeswap.evaluation.boxes import iou
from eyeswap.evaluation.grounding import Grounding
from eyeswap.recipe import TestBoxFrame
from eyeswap.results.averages import Weights
from eyeswap.results.readings import image_sizes, overlaps_of, view_of
from eyeswap.results.scores import Predictions, read_run_predictions, summarize
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.record import AskedBenchmark, read_index

_TOLERANCE = 1e-9  # scores that differ by less are equal


@dataclass(frozen=True)
class Rescored:
    """One benchmark of a run, scored again.

    Attributes:
        benchmark: the benchmark, with the mode it was scored in.
        predictions: as stored, with the new scores.
        outcomes: one per example.
        num_changed: how many scores differ from the stored ones.
        has_details: whether the official fields of the examples are known.
        note: a caveat for the reader of the scores; empty if there is none.
    """

    benchmark: Benchmark
    predictions: Predictions
    outcomes: list[Outcome]
    num_changed: int
    has_details: bool
    note: str


def rescore(
    run_dir: Path,
    mode: Mode = "study",
    names: Iterable[str] = (),
    root: Path | None = None,
    weights: Weights = "counts",
    box_frame: TestBoxFrame | None = None,
) -> dict[str, Any]:
    """Score a run's predictions again, complete or not.

    Args:
        run_dir: the run's folder.
        mode: ``study`` or ``official``.
        names: benchmarks to score; by default all that the run answered.
        root: data root to read the official fields of examples from.
        weights: how benchmarks are weighted in the averages.
        box_frame: frame to score boxes in; None for the one that they were scored in.

    Returns:
        The content of ``scores.json``; for each benchmark also ``details`` (further metrics), ``reasons`` (why one is
        None), ``changed`` (how many scores differ from the stored ones) and ``note``. In ``official`` mode baselines
        and gains are None, because the trivial answers were scored in ``study`` mode.

    Raises:
        SpecError: if the run did not answer a benchmark of that name.
        DataError: if a file is missing or damaged; the message names file and row.
    """
    rescored = rescore_benchmarks(run_dir, mode, names, root, box_frame)
    content = summarize([result.predictions for result in rescored], weights).as_json()
    for result in rescored:
        entry = content["benchmarks"][result.benchmark.name]
        details = result.benchmark.details(result.outcomes) if result.has_details else None
        entry |= {
            "details": details.values if details else {},
            "reasons": details.reasons
            if details
            else {"details": "not stored with the predictions; pass the data root"},
            "changed": result.num_changed,
            "note": result.note,
        }
    if mode == "official":
        for entry in [*content["benchmarks"].values(), *content["averages"].values()]:
            entry |= {"baseline": None, "gain": None}
    return {"mode": mode, "weights": weights, **content}


def rescore_benchmarks(
    run_dir: Path,
    mode: Mode = "study",
    names: Iterable[str] = (),
    root: Path | None = None,
    box_frame: TestBoxFrame | None = None,
) -> list[Rescored]:
    """Score each benchmark's predictions again; arguments and errors as `rescore`."""
    if not RunFolder(run_dir).predictions.is_dir():
        raise SpecError(f"{run_dir}: no predictions; pass the folder of a run such as runs/quickstart/vit/seed-7")
    stored = {predictions.name: predictions for predictions in read_run_predictions(run_dir)}
    for name in names:
        if name not in stored:
            raise SpecError(f"{run_dir}: no predictions for {name!r}. {nearest(name, stored)}")
    index = read_index(RunFolder(run_dir).benchmarks)
    chosen = list(names) or list(stored)
    return [rescore_predictions(_in_frame(stored[name], box_frame), index[name], mode, root) for name in chosen]


def rescore_predictions(stored: Predictions, asked: AskedBenchmark, mode: Mode, root: Path | None = None) -> Rescored:
    """Score the predictions for one benchmark again; arguments and errors as `rescore`."""
    benchmark = get_benchmark(asked.benchmark or stored.name, mode)
    if "answer" not in stored.table.column_names:
        raise DataError(f"{stored.path}: no column answer")
    rows = stored.table.to_pylist()
    if isinstance(benchmark, Grounding):
        run_dir = stored.path.parents[1]
        has_pixels = "true_box_px" in stored.table.column_names
        frame = cast("TestBoxFrame", stored.box_frame or "original")
        benchmark = replace(benchmark, box_frame=frame, view=view_of(run_dir), exact_truth=has_pixels)
        rows = [row | {"size": size} for row, size in zip(rows, image_sizes(run_dir, stored.table), strict=True)]
    official = None if root is None else {example.example_id: example for example in benchmark.examples(root)}
    has_details = official is not None or all(row.get("details") is not None for row in rows)
    outcomes = [_outcome(benchmark, stored, row, official) for row in rows]
    scores = np.array([outcome.score for outcome in outcomes])
    num_changed = int(np.sum(np.abs(scores - stored.score) > _TOLERANCE))
    by_probability = any(row.get("probabilities") is not None for row in rows)
    note = ""
    if mode == "official" and by_probability and benchmark.answer_kind == "text":
        note = "the answers are the more probable of Yes and No; the official script scores generated text"
    return Rescored(benchmark, replace(stored, score=scores), outcomes, num_changed, has_details, note)


def _in_frame(stored: Predictions, frame: TestBoxFrame | None) -> Predictions:
    if frame in (None, stored.box_frame) or stored.iou_threshold is None:
        return stored
    if frame not in overlaps_of(stored.path.parents[1], stored.table):
        raise SpecError(f"{stored.path}: the frame {frame} requires image sizes and geometry, which were not recorded")
    return replace(stored, box_frame=frame)


def _outcome(
    benchmark: Benchmark, stored: Predictions, row: Mapping[str, Any], official: Mapping[str, Example] | None
) -> Outcome:
    example = _example(stored, row)
    if official is not None:
        raw = official.get(example.example_id)
        if raw is None or (raw.question, _plain(raw.truth)) != (example.question, _plain(example.truth)):
            raise DataError(
                f"{stored.path}: example {example.example_id} differs from that of the data root; other data?"
            )
        example = replace(raw, size=example.size or raw.size, box_px=example.box_px or raw.box_px)
    if row.get("error") is not None:
        return Outcome(example, row["answer"], 0.0, invalid=bool(row["invalid"]))
    if isinstance(benchmark, Grounding) and example.size is None and benchmark.box_frame != "original" and row["box"]:
        return _stored_box(benchmark, example, row)
    answer: Answer = row["answer"]
    if benchmark.answer_kind == "choice" and row.get("probabilities") is not None:
        answer = [float("nan") if value is None else float(value) for value in row["probabilities"]]
    return benchmark.score(example, answer)


def _stored_box(benchmark: Grounding, example: Example, row: Mapping[str, Any]) -> Outcome:
    """Score a box that was stored in the frame of the original image; its value in the answer is unknown."""
    overlap = iou(row["box"], [float(value) for value in _plain(example.truth)])
    return Outcome(
        example, row["answer"], float(overlap >= benchmark.iou_threshold), box=tuple(row["box"]), iou=overlap
    )


def _example(stored: Predictions, row: Mapping[str, Any]) -> Example:
    try:
        truth = json.loads(row["truth"])
        details = json.loads(row.get("details") or "{}")
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{stored.path}: example {row['example_id']}: truth or details are not JSON") from None
    return Example(
        example_id=row["example_id"],
        image=row["image"],
        image_id=row.get("image_id", row["image"]),
        subset=row["subset"],
        kind=row.get("kind", ""),
        question=row.get("question", ""),
        truth=tuple(truth) if isinstance(truth, list) else truth,
        size=row.get("size"),
        box_px=None if row.get("true_box_px") is None else tuple(row["true_box_px"]),
        details=details,
    )


def _plain(truth: Any) -> Any:
    return list(truth) if isinstance(truth, tuple) else truth
