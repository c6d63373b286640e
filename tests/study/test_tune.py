"""Fair tuning: the same trials for every arm, chosen by the stated rule, matched and tuned arms side by side."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from eyeswap.errors import SpecError
from eyeswap.files import read_json, write_json
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import Study, load_study
from eyeswap.planning.tuning import choose, trial_name, trial_study, with_tuned_arms
from eyeswap.report import analyse
from eyeswap.report.writers.data import as_json
from eyeswap.report.writers.markdown import markdown
from eyeswap.report.writers.page import render
from eyeswap.runs.folder import StudyFolder
from eyeswap.study.execute import run_study

pytestmark = pytest.mark.extended

STUDY = """
question: Does the ranking survive?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 12, num_val_images: 4, turns: 2}}
  llm: {llm}
  global_batch: 4
  lr: 1e-3
  precision: fp32
arms: {{vit: digits-vit, vmamba: digits-vmamba}}
benchmarks: [vqav2, pope]
subset: 4
tune: {{lr: [1e-3, 3e-2], on: seed 0, questions: train-split, subset: 3, steps: 2}}
"""


@pytest.fixture(scope="module")
def study_file(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tune") / "tuned.yaml"
    file.write_text(STUDY.format(llm=tiny_llm))
    return file


@pytest.fixture(scope="module")
def runs(study_file: Path) -> Path:
    runs = study_file.parent / "runs"
    run_study(load_study(study_file), study_file, runs, Console(file=io.StringIO()))
    return runs


def test_every_arm_has_the_same_trials_on_what_no_result_uses(study_file: Path, runs: Path) -> None:
    trials = plan_runs(trial_study(load_study(study_file)), runs / "tuned")
    assert [(run.arm, run.seed, run.recipe.lr) for run in trials] == [
        ("vit-lr-1", 0, 1e-3), ("vit-lr-2", 0, 3e-2), ("vmamba-lr-1", 0, 1e-3), ("vmamba-lr-2", 0, 3e-2),
    ]  # fmt: skip
    assert {run.state() for run in trials} == {"done"}
    folder = StudyFolder(runs / "tuned")
    asked, results = (read_json(one.benchmarks) for one in (trials[0].files, folder.run("vit", 7)))
    assert set(asked) == set(results) == {"vqav2", "pope"}
    assert all(asked[name]["questions_digest"] != results[name]["questions_digest"] for name in asked)
    assert read_json(trials[0].files.record)["num_steps"] == 2
    record = read_json(folder.tuning)
    assert {arm: [trial["lr"] for trial in some] for arm, some in record["trials"].items()} == {
        "vit": [1e-3, 3e-2], "vmamba": [1e-3, 3e-2],
    }  # fmt: skip


def test_arms_whose_best_rate_is_another_have_a_twin_with_it(study_file: Path, runs: Path) -> None:
    chosen = read_json(StudyFolder(runs / "tuned").tuning)["chosen"]
    planned = {run.arm: run for run in plan_runs(with_tuned_arms(load_study(study_file), runs), runs)}
    twins = {f"{arm}-tuned": rate for arm, rate in chosen.items() if rate != 1e-3}
    assert set(planned) == {"vit", "vmamba", *twins}
    assert {run.state() for run in planned.values()} == {"done"}
    assert all(planned[name].recipe.lr == rate for name, rate in twins.items())
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    run_study(load_study(study_file), study_file, runs, Console(file=io.StringIO()))
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")} == before


def test_the_report_sets_matched_and_tuned_side_by_side(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyeswap.report.writers.page.plots", lambda analysis: {})
    analysis = analyse(runs / "tuned")
    assert {arm.name for arm in analysis.tuning.arms} == {"vit", "vmamba"}
    assert "## Does the ranking survive tuning?" in markdown(analysis)
    assert 'id="tuning"' in render(analysis)
    assert [len(arm["trials"]) for arm in as_json(analysis)["tuning"]["arms"]] == [2, 2]


def plain(**changes: object) -> Study:
    study = {
        "name": "s", "question": "?", "recipe": {"data": "digits", "llm": "digits-llm", "lr": 2e-3},
        "arms": {"a": "digits-vit", "b": "digits-vmamba"}, "benchmarks": ["pope"], "tune": {"lr": [1e-3, 2e-3]},
    }  # fmt: skip
    return Study.model_validate(study | changes)


def test_the_highest_average_counts_and_of_equal_ones_the_smaller_rate() -> None:
    study = plain()
    scores = {trial_name("a", 0): 50.0, trial_name("a", 1): 50.0, trial_name("b", 0): 40.0, trial_name("b", 1): 41.0}
    assert choose(study, scores).chosen == {"a": 1e-3, "b": 2e-3}


def test_a_choice_made_for_another_tune_is_refused(tmp_path: Path) -> None:
    study = plain()
    write_json(tmp_path / "s" / "tuning.json", {"rule": "", "settings": {"lr": [1]}, "trials": {}, "chosen": {}})
    with pytest.raises(SpecError, match="was made for other arms or another tune; delete it"):
        with_tuned_arms(study, tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["tune.on=7"], "tune.on: results use seed 7"),
        (["tune.lr=[1e-3]"], "tune.lr: .*at least 2"),
        (["tune.lr=[1e-3, 1e-3]"], "tune.lr: a learning rate is listed twice"),
        (["tune.questions=eval"], "tune.questions"),
        (["arms.tuning=digits-vit"], "the folder of this name is for trials"),
    ],
)
def test_what_would_spoil_the_trials_is_refused(study_file: Path, changes: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        load_study(study_file, changes)
