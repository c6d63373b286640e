"""A study that an older version carried out opens as it is: status, audit, report, collapse, archive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eyeswap.audit.audit import audit
from eyeswap.cli.main import app
from eyeswap.collapse.verdict import diagnose
from eyeswap.planning import plan
from eyeswap.planning.plan import PlannedRun, plan_runs
from eyeswap.planning.spec import load_study
from eyeswap.report.analysis.analysis import analyse
from eyeswap.report.writers.write import write_report
from eyeswap.results.archive import export_study, import_study
from eyeswap.results.run import load_runs
from eyeswap.results.scores import score_run

OLDER = Path(__file__).parents[1] / "fixtures" / "older-study"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study's folder, in which the packaged weights are as they were then."""
    shutil.copytree(OLDER, tmp_path / "older")
    recorded = {
        record["backbone"]["name"]: (record["backbone"]["weights_sha256"], record["llm"]["sha256"])
        for path in OLDER.glob("runs/before/*/seed-7/spec.json")
        for record in [json.loads(path.read_text(encoding="utf-8"))]
    }
    monkeypatch.setattr(plan, "_backbone_weights", lambda name: recorded[str(name)][0])
    monkeypatch.setattr(plan, "_llm_weights", lambda name: recorded["digits-vit"][1])
    return tmp_path / "older" / "runs" / "before"


def planned(study: Path, **changes: object) -> list[PlannedRun]:
    value = load_study(study.parents[1] / "before.yaml").model_copy(update=changes)
    return plan_runs(value, study.parent)


def test_its_runs_are_done(study: Path) -> None:
    assert [run.state() for run in planned(study)] == ["done", "done"]
    told = CliRunner().invoke(
        app, ["study", "status", str(study.parents[1] / "before.yaml"), "--runs", str(study.parent), "--json"]
    )
    assert told.exit_code == 0, told.output
    for run in json.loads(told.stdout)["runs"]:
        assert (run["activity"], run["step"], run["num_steps"]) == ("done", 2, 2)
        assert run["answered"] == run["asked"] == {"pope": 42, "refcoco": 8}


def test_more_can_be_asked_of_it_and_another_recipe_is_named(study: Path) -> None:
    more = planned(study, benchmarks=("pope", "refcoco", "gqa"))
    assert [(run.state(), run.unasked()) for run in more] == [("unfinished", ["gqa"])] * 2
    recipe = planned(study)[0].study.recipe
    for run in planned(study, recipe=recipe.model_copy(update={"lr": 2e-3})):
        assert [str(change) for change in run.changes()] == ["recipe.lr was 0.001 and is 0.002"]


def test_its_audit_is_clean(study: Path) -> None:
    report = audit(load_runs([study]))
    assert not report.undeclared
    assert not report.errors
    assert {fact.title for fact in report.declared} >= {"backbone", "backbone weights"}
    assert len(report.equal) > 15


def test_its_report_is_written(study: Path) -> None:
    paths = write_report(analyse(study))
    results = json.loads(paths["results.json"].read_text(encoding="utf-8"))
    assert list(results["arms"]["vit"]["benchmarks"]) == ["pope", "refcoco"]
    stored = json.loads((study / "vit" / "seed-7" / "scores.json").read_text(encoding="utf-8"))
    assert results["arms"]["vit"]["benchmarks"]["pope"]["score"]["value"] == stored["benchmarks"]["pope"]["score"]


def test_its_answers_give_the_scores_that_were_stored(study: Path) -> None:
    for run in load_runs([study]):
        again = score_run(run.folder)
        assert {name: one.score.value for name, one in again.benchmarks.items()} == {
            name: one.score.value for name, one in run.scores.benchmarks.items()
        }


def test_its_probes_are_found(study: Path) -> None:
    for arm in diagnose(load_runs([study])):
        assert set(arm.runs[0].signs.gains) == {"best constant box", "blanked images"}


def test_it_travels_in_an_archive(study: Path, tmp_path: Path) -> None:
    export_study(study, tmp_path / "old.eyeswap.zip")
    assert import_study(tmp_path / "old.eyeswap.zip", tmp_path / "there").added == ["vit/seed-7", "vmamba/seed-7"]
