"""A run reads each of its files once, when it is needed, and counts the benchmarks that its study has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyeswap.audit.audit import audit
from eyeswap.collapse.verdict import diagnose
from eyeswap.errors import DataError
from eyeswap.files import read_json
from eyeswap.results import scores as module
from eyeswap.results.run import Run, load_runs, named
from eyeswap.results.scores import Scores, write_scores
from written_runs import TRUE, write_run


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for arm in ("vit", "vmamba"):
        write_scores(write_run(tmp_path / "s", arm, TRUE))
    return tmp_path / "s"


def test_each_file_of_predictions_is_read_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    plain = module.read_predictions

    def counted(run_dir: Path, benchmark: str) -> object:
        read.append((run_dir.parent.name, benchmark))
        return plain(run_dir, benchmark)

    monkeypatch.setattr(module, "read_predictions", counted)
    runs = load_runs([study])
    assert read == []
    audit(runs)
    diagnose(runs)
    diagnose(runs)
    assert sorted(read) == [(arm, name) for arm in ("vit", "vmamba") for name in ("pope", "refcoco")]


def test_scores_are_the_same_in_memory_and_in_json(study: Path) -> None:
    for run in load_runs([study]):
        stored = read_json(run.files.scores)
        assert run.scores.as_json() == stored
        assert Scores.from_json(stored) == run.scores


def test_what_the_study_has_no_longer_does_not_count(study: Path) -> None:
    (study / "study.json").write_text(json.dumps({"benchmarks": ["refcoco"]}), encoding="utf-8")
    for run in load_runs([study]):
        assert list(run.asked) == [one.name for one in run.predictions] == list(run.scores.benchmarks) == ["refcoco"]
        assert list(run.stored_scores.benchmarks) == ["pope", "refcoco"]
        assert run.scores.averages["overall"] == run.scores.averages["localization"]
    (study / "study.json").write_text(json.dumps({"benchmarks": ["refcoco", "pope"]}), encoding="utf-8")
    run = load_runs([study])[0]
    assert list(run.scores.benchmarks) == ["refcoco", "pope"]
    assert run.scores.averages == run.stored_scores.averages


def test_scores_without_a_benchmark_that_was_asked_are_refused(study: Path) -> None:
    run = Run(study / "vit" / "seed-7")
    content = read_json(run.files.scores)
    del content["benchmarks"]["pope"]
    run.files.scores.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.json: lacks benchmarks of .*benchmarks\.json; evaluate"):
        assert run.scores


def test_runs_of_equal_names_are_told_by_their_folders(study: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", "vit", TRUE)
    assert list(named(load_runs([study, other]))) == ["vit/seed-7", "vmamba/seed-7", str(other)]
