"""A plan knows from the run folders alone what is done, begun, still to be asked, or another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyeswap.errors import DataError, SpecError
from eyeswap.files import digest, read_json, write_json
from eyeswap.planning.plan import PlannedRun, plan_runs, refuse_changed
from eyeswap.planning.spec import Study
from eyeswap.runs.recorded import write_record
from planned_runs import begin_run, finish_run, record_of

RECIPE = {"data": "digits", "llm": "digits-llm"}


def study(**changes: object) -> Study:
    value = {
        "name": "s",
        "question": "?",
        "recipe": RECIPE,
        "arms": {"vit": "digits-vit", "vmamba": "digits-vmamba"},
        "benchmarks": ["pope", "refcoco"],
        "seeds": [7, 8],
    }
    return Study.model_validate({**value, **changes})


def first(runs: Path, **changes: object) -> PlannedRun:
    return plan_runs(study(**changes), runs)[0]


def folder_study(root: Path, **changes: object) -> Study:
    """A study of data, language model and encoder that lie in files."""
    (root / "llm").mkdir(exist_ok=True)
    for name, text in {"data.json": "[]", "mine.py": "a = 1\n", "llm/model.safetensors": "weights"}.items():
        if not (root / name).is_file():
            (root / name).write_text(text, encoding="utf-8")
    recipe = {"data": {"folder": str(root), "instruction": "data.json"}, "llm": str(root / "llm")}
    return study(recipe=recipe, arms={"mine": f"{root / 'mine.py'}:build"}, **changes)


def test_a_plan_has_one_run_for_each_arm_and_seed(tmp_path: Path) -> None:
    folders = [str(run.folder.relative_to(tmp_path)) for run in plan_runs(study(), tmp_path)]
    assert folders == ["s/vit/seed-7", "s/vmamba/seed-7", "s/vit/seed-8", "s/vmamba/seed-8"]


def test_runs_have_different_digests(tmp_path: Path) -> None:
    planned = plan_runs(study(), tmp_path)
    assert len({run.digest for run in planned}) == len({run.model.digest for run in planned}) == 4


MODEL_CHANGES: dict[str, tuple[dict[str, object], list[str]]] = {
    "learning rate": ({"recipe": {**RECIPE, "lr": 1.0}}, ["recipe.lr was 2e-05 and is 1.0"]),
    "data": ({"recipe": {**RECIPE, "data": {"name": "digits", "seed": 3}}}, ["recipe.data.seed was 0 and is 3"]),
    "backbone": (
        {"arms": {"vit": "digits-maxvit"}},
        ['arm.backbone was "digits-vit" and is "digits-maxvit"', "weights.backbone was sha256"],
    ),
    "connector": (
        {"arms": {"vit": {"backbone": "digits-vit", "connector": "linear"}}, "may_differ": ["backbone", "connector"]},
        ['arm.connector was "gelu-mlp" and is "linear"'],
    ),
}


@pytest.mark.parametrize("change", MODEL_CHANGES)
def test_what_changes_a_model_is_refused_by_its_field_with_both_values(tmp_path: Path, change: str) -> None:
    changes, words = MODEL_CHANGES[change]
    finish_run(first(tmp_path))
    changed = first(tmp_path, **changes)
    assert changed.state() == "changed"
    assert changed.digest != first(tmp_path).digest
    with pytest.raises(SpecError) as caught:
        refuse_changed([changed], Path("s.yaml"))
    assert all(word in str(caught.value) for word in [*words, "another version of s.yaml", "another --runs"])
    assert str(caught.value).count(" was ") == len(words)


@pytest.mark.parametrize(
    ("name", "field"),
    [("mine.py", "weights.encoder_file"), ("llm/model.safetensors", "weights.llm"), ("data.json", "data")],
)
def test_the_bytes_of_data_encoder_and_language_model_decide_the_model(tmp_path: Path, name: str, field: str) -> None:
    (run, _) = plan_runs(folder_study(tmp_path), tmp_path / "runs")
    finish_run(run)
    assert run.state() == "done"
    (tmp_path / name).write_text("other bytes", encoding="utf-8")
    (run, _) = plan_runs(folder_study(tmp_path), tmp_path / "runs")
    (change,) = run.changes()
    assert change.field == field
    assert f"{field} was sha256 {change.before[:12]} and is sha256 {change.now[:12]}" in str(change)
    assert run.state() == "changed"


def test_what_is_not_at_hand_is_no_change(tmp_path: Path) -> None:
    (run, _) = plan_runs(folder_study(tmp_path), tmp_path / "runs")
    finish_run(run)
    (tmp_path / "llm" / "model.safetensors").unlink()
    (tmp_path / "llm").rmdir()
    (tmp_path / "data.json").unlink()
    assert run.state() == "done"


@pytest.mark.parametrize(
    "changes",
    [{"question": "Other?"}, {"seeds": [7]}, {"arms": {"vit": "digits-vit"}}, {"benchmarks": ["pope"]}, {"subset": 3}],
)
def test_what_does_not_decide_a_model_leaves_its_digest(tmp_path: Path, changes: dict[str, object]) -> None:
    assert first(tmp_path, **changes).digest == first(tmp_path).digest
    assert first(tmp_path, **changes).model.digest == first(tmp_path).model.digest


def test_states_follow_the_files(tmp_path: Path) -> None:
    run = first(tmp_path)
    assert run.state() == "new"
    begin_run(run)
    assert run.state() == "unfinished"
    finish_run(run)
    assert run.state() == "done"
    run.files.scores.unlink()
    assert run.state() == "unfinished"
    run.files.record.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"spec\.json: arm: missing"):
        run.state()


def test_a_run_of_another_arm_is_refused(tmp_path: Path) -> None:
    run = first(tmp_path)
    finish_run(run)
    text = run.files.record.read_text(encoding="utf-8")
    run.files.record.write_text(text.replace(f'"arm": "{run.arm}"', '"arm": "other"'), encoding="utf-8")
    with pytest.raises(DataError, match=rf"spec\.json: a run of arm 'other' in the folder of '{run.arm}'"):
        run.state()


def test_what_was_not_asked_yet_is_known_by_benchmark(tmp_path: Path) -> None:
    finish_run(first(tmp_path))
    more = first(tmp_path, benchmarks=["gqa", "pope", "refcoco"])
    assert (more.state(), more.unasked()) == ("unfinished", ["gqa"])
    fewer = first(tmp_path, benchmarks=["refcoco"])
    assert (fewer.state(), fewer.unasked()) == ("done", [])
    larger = first(tmp_path, subset=5)
    assert (larger.state(), larger.unasked()) == ("unfinished", ["pope", "refcoco"])


def test_an_own_benchmark_with_other_rows_is_asked_again(tmp_path: Path) -> None:
    rows = [{"id": "1", "image": "1.png", "question": "?", "answer": "a"}]
    (tmp_path / "signs.yaml").write_text("metric: exact-match\ndata: signs.jsonl\n", encoding="utf-8")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "signs.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    benchmarks = ["pope", str(tmp_path / "signs.yaml")]
    finish_run(first(tmp_path, benchmarks=benchmarks))
    assert first(tmp_path, benchmarks=benchmarks).unasked() == []
    (tmp_path / "signs.jsonl").write_text(json.dumps(rows[0] | {"answer": "b"}), encoding="utf-8")
    assert first(tmp_path, benchmarks=benchmarks).unasked() == ["signs"]


def write_old(run: PlannedRun, **record: object) -> None:
    """Write a finished run as versions before the model digest did."""
    finish_run(run)
    overrides = run.study.arms[run.arm].overrides
    run_digest = digest(
        {
            "recipe": run.study.recipe.model_dump(mode="json"),
            "backbone": run.study.arms[run.arm].backbone,
            "overrides": overrides,
            "seed": run.seed,
            "benchmarks": list(run.study.benchmarks),
            "subset": run.study.subset,
        }
    )
    own = {
        "recipe": run.study.recipe.model_dump(mode="json"),
        "run_digest": run_digest,
        "backbone": {"name": "digits-vit", "weights_sha256": run.model.weights["backbone"], "frozen_mode": "eval"},
        "llm": {"name": "digits-llm", "sha256": run.model.weights["llm"]},
        "connector": {"kind": "gelu-mlp"},
    }
    fields = record_of(run, **{**own, **record}).model_dump(mode="json", exclude_unset=True)
    del fields["model"]
    write_json(run.files.record, fields)
    index = read_json(run.files.benchmarks)
    write_json(
        run.files.benchmarks,
        {name: {k: v for k, v in about.items() if k != "identity"} for name, about in index.items()},
    )


def test_runs_of_versions_before_the_model_digest_stay_done(tmp_path: Path) -> None:
    write_old(first(tmp_path))
    assert first(tmp_path).state() == "done"
    more = first(tmp_path, benchmarks=["pope", "refcoco", "gqa"])
    assert (more.state(), more.unasked()) == ("unfinished", ["gqa"])


def test_what_changed_since_an_old_run_is_named_too(tmp_path: Path) -> None:
    write_old(first(tmp_path))
    (change,) = first(tmp_path, recipe={**RECIPE, "lr": 1.0}).changes()
    assert str(change) == "recipe.lr was 2e-05 and is 1.0"
    write_old(first(tmp_path), llm={"name": "digits-llm", "sha256": "0" * 64})
    (change,) = first(tmp_path).changes()
    assert change.field == "weights.llm"
    write_old(first(tmp_path), run_digest="of another tap", backbone={"name": "digits-vit", "tap": -1})
    assert {change.field for change in first(tmp_path).changes()} == {"arm.tap", "arm.geometry"}


def test_a_field_that_a_newer_version_added_has_its_default_in_older_runs(tmp_path: Path) -> None:
    run = first(tmp_path)
    recipe = {key: value for key, value in run.model.recipe.items() if key != "num_epochs"}
    write_record(run.files.record, record_of(run, model=run.model.model_copy(update={"recipe": recipe})))
    assert run.changes() == []
    (change,) = first(tmp_path, recipe={**RECIPE, "num_epochs": 2}).changes()
    assert str(change) == "recipe.num_epochs was 1 and is 2"
