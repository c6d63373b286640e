"""A plan knows from the run folders alone what is done, begun, or made by another study text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyeswap.planning.plan import PlannedRun, plan_runs
from eyeswap.planning.spec import Study


def study(**changes: object) -> Study:
    value = {
        "name": "s",
        "question": "?",
        "recipe": {"data": "digits", "llm": "digits-llm"},
        "arms": {"vit": "digits-vit", "vmamba": "digits-vmamba"},
        "benchmarks": ["pope", "refcoco"],
        "seeds": [7, 8],
    }
    return Study.model_validate({**value, **changes})


def first(runs: Path, **changes: object) -> PlannedRun:
    return plan_runs(study(**changes), runs)[0]


def begin(run: PlannedRun) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "spec.json").write_text(json.dumps({"run_digest": run.digest}), encoding="utf-8")


def test_a_plan_has_one_run_for_each_arm_and_seed(tmp_path: Path) -> None:
    folders = [str(run.folder.relative_to(tmp_path)) for run in plan_runs(study(), tmp_path)]
    assert folders == ["s/vit/seed-7", "s/vmamba/seed-7", "s/vit/seed-8", "s/vmamba/seed-8"]


def test_runs_have_different_digests(tmp_path: Path) -> None:
    assert len({run.digest for run in plan_runs(study(), tmp_path)}) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"benchmarks": ["pope"]},
        {"subset": 10},
        {"recipe": {"data": "digits", "llm": "digits-llm", "lr": 1.0}},
        {"arms": {"vit": "digits-maxvit"}},
        {
            "arms": {"vit": {"backbone": "digits-vit", "connector": "linear"}},
            "may_differ": ["backbone", "connector"],
        },
        {"seeds": [9]},
    ],
)
def test_whatever_decides_a_result_changes_the_digest(tmp_path: Path, change: dict[str, object]) -> None:
    assert first(tmp_path, **change).digest != first(tmp_path).digest


@pytest.mark.parametrize("change", [{"question": "Other?"}, {"seeds": [7]}, {"arms": {"vit": "digits-vit"}}])
def test_what_does_not_decide_a_run_leaves_its_digest(tmp_path: Path, change: dict[str, object]) -> None:
    assert first(tmp_path, **change).digest == first(tmp_path).digest


def test_the_digest_of_your_own_backbone_follows_its_source(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    digests = []
    for text in ("a = 1\n", "a = 2\n"):
        source.write_text(text, encoding="utf-8")
        digests.append(first(tmp_path, arms={"mine": f"{source}:build"}).digest)
    assert digests[0] != digests[1]


def test_states_follow_the_files(tmp_path: Path) -> None:
    run = first(tmp_path)
    assert run.state() == "new"
    begin(run)
    assert run.state() == "unfinished"
    (run.folder / "scores.json").write_text("{}", encoding="utf-8")
    assert run.state() == "done"
    assert first(tmp_path, subset=3).state() == "changed"
