"""Records are read as types: old ones whole, new keys kept, damage named by file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eyeswap.errors import DataError
from eyeswap.runs.record import RunRecord, StudyRecord, read_index
from eyeswap.runs.recorded import read_record, write_record

LEAST: dict[str, Any] = {
    "arm": "vit", "seed": 7, "recipe_digest": "r", "backbone": {}, "llm": {}, "connector": {},
}  # fmt: skip


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_what_an_old_version_did_not_record_is_none(tmp_path: Path) -> None:
    record = read_record(written(tmp_path / "spec.json", LEAST), RunRecord)
    assert record.name == "vit/seed-7"
    assert (record.model, record.num_steps, record.observed.tap_norm, record.backbone.num_tokens) == (None,) * 4
    write_record(tmp_path / "again.json", record)
    assert json.loads((tmp_path / "again.json").read_text()) == LEAST


def test_keys_of_a_newer_version_are_kept(tmp_path: Path) -> None:
    newer = {**LEAST, "weather": "rain", "backbone": {"name": "digits-vit", "colour": "blue"}}
    write_record(tmp_path / "again.json", read_record(written(tmp_path / "spec.json", newer), RunRecord))
    assert json.loads((tmp_path / "again.json").read_text()) == newer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": "seven"}, r"seed: input should be a valid integer.*, not 'seven'"),
        ({"backbone": 3}, r"backbone: expected an object"),
        ({"backbone": {"token_grid": [8]}}, r"backbone\.token_grid\.1: missing"),
        ({"arm": None}, r"arm: input should be a valid string, not None"),
    ],
)
def test_damage_is_named_by_file_and_field(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = written(tmp_path / "spec.json", {**LEAST, **change})
    with pytest.raises(DataError, match=rf"spec\.json: {says}") as caught:
        read_record(path, RunRecord)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[], "spec", 3, None])
def test_what_is_no_object_is_refused(tmp_path: Path, content: object) -> None:
    path = written(tmp_path / "some.json", content)
    with pytest.raises(DataError, match=r"some\.json: expected an object"):
        read_record(path, RunRecord)
    with pytest.raises(DataError, match=r"some\.json: expected an object"):
        read_index(path)


def test_a_study_names_its_benchmarks_by_their_short_names() -> None:
    study = StudyRecord.model_validate({"benchmarks": ["pope", "somewhere/my-signs.yaml"]})
    assert study.benchmark_names == ("pope", "my-signs")
    assert StudyRecord().benchmark_names is None


def test_pixels_and_colours_of_a_geometry_are_told_apart() -> None:
    geometry = {"strategy": "letterbox", "canvas": [64, 64], "mean": [0, 0, 0], "std": [1, 1, 1], "fill": [0, 0, 0]}
    backbone = RunRecord.model_validate({**LEAST, "backbone": {"geometry": geometry, "token_grid": [4, 3]}}).backbone
    assert backbone.canvas_geometry == {"strategy": "letterbox", "canvas": [64, 64]}
    assert set(backbone.colours or {}) == {"mean", "std", "fill"}
    assert backbone.num_tokens == 12


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "", "...", "1" * 5000, "\x00"])
def test_a_benchmark_is_named_as_a_file_of_the_run(tmp_path: Path, name: str) -> None:
    entry = {"group": "vqa", "title": "t", "metric": "m", "baseline": "b"}
    with pytest.raises(DataError, match="is not the name of a benchmark"):
        read_index(written(tmp_path / "benchmarks.json", {name: entry}))
    assert list(read_index(written(tmp_path / "benchmarks.json", {"refcoco+": entry}))) == ["refcoco+"]
