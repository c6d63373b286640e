"""Where files of runs and studies lie, and which runs a path stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyeswap.errors import DataError
from eyeswap.runs.folder import RunFolder, StudyFolder, find_runs


def begin(study: Path, arm: str, seed: int) -> RunFolder:
    run = StudyFolder(study).run(arm, seed)
    run.path.mkdir(parents=True)
    run.record.write_text("{}", encoding="utf-8")
    return run


def test_a_run_knows_its_study_its_name_and_how_far_it_is(tmp_path: Path) -> None:
    run = begin(tmp_path / "s", "vit", 7)
    assert run.study == StudyFolder(tmp_path / "s")
    assert (run.name, run.is_of_a_study) == ("vit/seed-7", True)
    assert (run.is_begun, run.is_trained, run.is_scored) == (True, False, False)
    run.model.mkdir()
    run.scores.write_text("{}", encoding="utf-8")
    assert (run.is_trained, run.is_scored) == (True, True)
    assert not run.evaluation_folder("data-full-study").is_of_a_study


def test_a_folder_stands_for_all_runs_below_it_each_once(tmp_path: Path) -> None:
    runs = [begin(tmp_path / "s", arm, seed).path for arm in ("maxvit", "vit") for seed in (7, 8)]
    assert find_runs([tmp_path]) == find_runs([tmp_path / "s", runs[0]]) == runs
    assert find_runs([tmp_path / "s" / "vit"]) == runs[2:]
    assert [run.path for run in StudyFolder(tmp_path / "s").runs()] == runs
    with pytest.raises(DataError, match="contains no run"):
        find_runs([tmp_path / "elsewhere"])


def test_a_seal_covers_records_answers_and_weights_alone(tmp_path: Path) -> None:
    run = begin(tmp_path / "s", "vit", 7)
    for path in (
        run.model / "config.json",
        run.predictions_of("pope"),
        run.parts / "part-1.parquet",
        run.workers / "1",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    names = [path.relative_to(run.path).as_posix() for path in run.sealed_files()]
    assert names == ["model/config.json", "predictions/pope.parquet", "spec.json"]


def test_a_profile_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    assert study.profile == tmp_path / "profile.csv"
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "profile.csv").write_text("", encoding="utf-8")
    assert study.profile == tmp_path / "profile" / "profile.csv"
