"""Finished runs written by hand, small enough to know every answer: for tests of what is measured from run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TRUE: list[list[float] | None] = [[x / 4, y / 4, x / 4 + 0.25, y / 4 + 0.25] for x in range(4) for y in range(4)] * 6


def write_run(
    folder: Path, arm: str, answers: list[list[float] | None], baseline: str = "constant box [0, 0, 1, 1]"
) -> Path:
    """Write a finished run: yes/no answers, all right, and boxes against true boxes on a grid."""
    run = folder / arm / "seed-7"
    (run / "predictions").mkdir(parents=True)
    truth = [[x / 4, y / 4, x / 4 + 0.25, y / 4 + 0.25] for x in range(4) for y in range(4)] * 6
    boxes = [answers[n % len(answers)] for n in range(len(truth))] if len(answers) < len(truth) else answers
    score = [float(box == true) for box, true in zip(boxes, truth, strict=True)]
    about = {"title": "t", "metric": "m", "baseline": baseline}
    index = {
        "pope": {**about, "group": "vqa", "baseline": "majority"},
        "refcoco": {**about, "group": "localization", "iou_threshold": 0.5},
    }
    (run / "predictions" / "benchmarks.json").write_text(json.dumps(index), encoding="utf-8")
    for name in index:
        is_box = name == "refcoco"
        table = {
            "example_id": [f"{n}" for n in range(len(truth))],
            "image": [f"{n}.png" for n in range(len(truth))],
            "subset": ["all"] * len(truth),
            "score": score if is_box else [1.0] * len(truth),
            "baseline_score": [0.0] * len(truth),
            "invalid": [box is None and is_box for box in boxes],
            "truth": [json.dumps(true) if is_box else "yes" for true in truth],
            "question": ["q"] * len(truth),
            "box": pa.array(boxes if is_box else [None] * len(truth), pa.list_(pa.float64())),
        }
        pq.write_table(pa.table(table), run / "predictions" / f"{name}.parquet")
    spec = {"arm": arm, "seed": 7, "recipe_digest": "r", "backbone": {"name": "b"}, "llm": {}, "connector": {}}
    (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    (run / "environment.json").write_text("{}", encoding="utf-8")
    (run / "scores.json").write_text("{}", encoding="utf-8")
    (run / "train.jsonl").write_text('{"step": 0, "loss": 2.0}\n', encoding="utf-8")
    return run
