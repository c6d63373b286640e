"""Files of earlier versions, with two frames of boxes or none, still open and are given the other frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eyeswap.errors import SpecError
from eyeswap.files import read_json, write_json
from eyeswap.geometry import ImageGeometry, Placement
from eyeswap.results.readings import overlaps_of
from eyeswap.results.rescore import rescore
from eyeswap.results.scores import score_run

SIZE = (200, 100)
TRUTH = (0.1, 0.05, 0.5, 0.25)  # high up: nowhere near its place in the padded square
PIXELS = Placement.of_image(SIZE).convert(TRUTH, "canvas-unit", "image")
PADDED = Placement.of_padded_square(SIZE).convert(PIXELS, "image", "canvas-unit")
ANSWERS = [str(list(TRUTH)), str(list(PADDED)), "somewhere"]


def write_old_run(runs: Path, *, images: bool = True, geometry: bool = True) -> Path:
    """Write a run whose file knows the frames original and canvas alone, as earlier versions wrote it."""
    run, study_data = runs / "study" / "vit" / "seed-7", runs / "study" / "data"
    if images:
        study_data.mkdir(parents=True)
        Image.new("RGB", SIZE).save(study_data / "a.png")
    n = len(ANSWERS)
    columns: dict[str, Any] = {
        "example_id": [str(number) for number in range(n)],
        "image": ["a.png"] * n,
        "subset": ["val"] * n,
        "answer": ANSWERS,
        "truth": [json.dumps(TRUTH)] * n,
        "score": [1.0, 0.0, 0.0],
        "baseline_score": [0.0] * n,
        "invalid": [False, False, True],
        "box": pa.array([TRUTH, PADDED, None], pa.list_(pa.float64())),
        "iou": [1.0, 0.0, None],
        "original_iou": [1.0, 0.0, None],
        "error": pa.array([None] * n, pa.string()),
    }
    (run / "predictions").mkdir(parents=True)
    pq.write_table(pa.table(columns), run / "predictions" / "refcoco.parquet")
    about = {"group": "localization", "title": "RefCOCO", "metric": "m", "iou_threshold": 0.5, "num_examples": n}
    write_json(run / "predictions" / "benchmarks.json", {"refcoco": about})
    shown = ImageGeometry(canvas=(64, 64)).canonical() if geometry else None
    write_json(
        run / "spec.json",
        {
            "arm": "vit", "seed": 7, "recipe_digest": "r", "recipe": {"data": {"name": "digits"}},
            "backbone": {"name": "digits-vit", "family": "vit", "geometry": shown}, "llm": {}, "connector": {},
            "train_box_frame": "original", "test_box_frame": "original",
        },
    )  # fmt: skip
    return run


def test_every_frame_is_worked_out_from_answer_truth_size_and_geometry(tmp_path: Path) -> None:
    entry = score_run(write_old_run(tmp_path)).as_json()["benchmarks"]["refcoco"]
    third = pytest.approx(100 / 3, abs=1e-3)
    assert entry["box_frame"] == "original"
    assert entry["readings"] == {
        "original": third, "study": third, "padded-square": third, "canvas": third, "lenient": None,
    }  # fmt: skip
    run = tmp_path / "study" / "vit" / "seed-7"
    overlaps = overlaps_of(run, pq.read_table(run / "predictions" / "refcoco.parquet"))
    assert overlaps["original"] == [1.0, 0.0, None]  # as stored
    assert overlaps["padded-square"][1] == pytest.approx(1)
    assert overlaps["padded-square"][0] == 0


def test_what_cannot_be_known_is_none_and_never_guessed(tmp_path: Path) -> None:
    blind = write_old_run(tmp_path / "no-images", images=False)
    readings = score_run(blind).as_json()["benchmarks"]["refcoco"]["readings"]
    assert [readings[frame] for frame in ("study", "padded-square", "canvas")] == [None] * 3
    assert readings["original"] is not None
    with pytest.raises(SpecError, match="the frame padded-square requires image sizes and geometry"):
        rescore(blind, box_frame="padded-square")
    unplaced = score_run(write_old_run(tmp_path / "no-geometry", geometry=False)).as_json()
    readings = unplaced["benchmarks"]["refcoco"]["readings"]
    assert readings["padded-square"] is not None
    assert (readings["study"], readings["canvas"]) == (None, None)


def test_an_answer_is_scored_again_in_another_frame_without_the_model(tmp_path: Path) -> None:
    run = write_old_run(tmp_path)
    assert rescore(run)["benchmarks"]["refcoco"]["changed"] == 0
    entry = rescore(run, box_frame="padded-square")["benchmarks"]["refcoco"]
    assert (entry["box_frame"], entry["changed"]) == ("padded-square", 2)  # one was right before, the other is now
    assert entry["score"] == pytest.approx(100 / 3, abs=1e-3)
    assert "box_frame" not in read_json(run / "predictions" / "benchmarks.json")["refcoco"]  # nothing is written
