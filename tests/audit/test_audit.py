"""The audit finds a planted difference of every kind, and only that."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyeswap.audit.audit import AuditReport, audit
from eyeswap.errors import DataError
from eyeswap.results.run import load_runs
from eyeswap.runs.folder import find_runs

GEOMETRY = {
    "strategy": "letterbox",
    "canvas": [64, 64],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "fill": [123, 116, 103],
}


def record(arm: str, seed: int = 7) -> dict[str, Any]:
    return {
        "study": "s",
        "arm": arm,
        "seed": seed,
        "recipe_digest": "r",
        "backbone": {
            "name": f"small-{arm}",
            "weights_sha256": f"w-{arm}",
            "embed_dim": 64,
            "num_parameters": 1000,
            "token_grid": [7, 7],
            "geometry": copy.deepcopy(GEOMETRY),
            "frozen_mode": "eval",
            "tap": "stage-3",
        },
        "data_digest": "d",
        "order_digest": f"o-{seed}",
        "llm": {"name": "digits-llm", "sha256": "l"},
        "connector": {"kind": "gelu-mlp", "init_digest": f"c-{seed}"},
        "benchmarks": ["pope"],
        "may_differ": ["backbone"],
        "num_steps": 10,
    }


def environment() -> dict[str, Any]:
    return {"code_version": "v", "packages": {"torch": "2"}, "cpu": "x", "gpus": [], "num_threads": 2}


def audited(
    folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], seeds: tuple[int, ...] = (7,)
) -> AuditReport:
    """Audit two arms after ``change(spec, environment)`` was applied to the second."""
    for seed in seeds:
        for arm in ("vit", "vmamba"):
            spec, machine = record(arm, seed), environment()
            if arm == "vmamba":
                change(spec, machine)
            run = folder / arm / f"seed-{seed}"
            run.mkdir(parents=True)
            (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
            (run / "environment.json").write_text(json.dumps(machine), encoding="utf-8")
    return audit(load_runs([folder]))


def titles(facts: tuple[Any, ...]) -> set[str]:
    return {fact.title for fact in facts}


def nothing(spec: dict[str, Any], machine: dict[str, Any]) -> None:
    pass


def test_a_clean_study_differs_in_its_backbone_alone(tmp_path: Path) -> None:
    report = audited(tmp_path, nothing)
    assert titles(report.declared) == {"backbone", "backbone weights"}
    assert not report.undeclared
    assert {
        "recipe",
        "training data",
        "batch order",
        "LLM weights",
        "connector start",
        "code version",
    } <= titles(report.equal)
    assert {"training prompt", "test prompt", "norm at the tap"} <= set(report.unknown)
    assert [finding.key for finding in report.warnings] == ["single-seed"]
    assert not report.errors


@pytest.mark.parametrize(
    ("title", "place", "value"),
    [
        ("recipe", "recipe_digest", "other"),
        ("training data", "data_digest", "other"),
        ("batch order", "order_digest", "other"),
        ("training steps", "num_steps", 9),
        ("benchmarks", "benchmarks", ["pope", "gqa"]),
        ("LLM", "llm.name", "other"),
        ("LLM weights", "llm.sha256", "other"),
        ("connector", "connector.kind", "linear"),
        ("connector start", "connector.init_digest", "other"),
        ("image geometry", "backbone.geometry.strategy", "corner-letterbox"),
        ("image geometry", "backbone.geometry.canvas", [32, 32]),
        ("frozen mode", "backbone.frozen_mode", "train"),
        ("code version", "environment.code_version", "other"),
        ("packages", "environment.packages.torch", "3"),
        ("threads", "environment.num_threads", 4),
    ],
)
def test_every_planted_difference_is_undeclared(tmp_path: Path, title: str, place: str, value: Any) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        *way, last = place.split(".")
        target: Any = {**spec, "environment": machine}
        for key in way:
            target = target[key]
        (spec if not way else target)[last] = value

    report = audited(tmp_path, plant)
    assert title in titles(report.undeclared)
    assert titles(report.undeclared) <= {title, "connector start"}


def test_a_declared_factor_explains_its_own_difference_only(tmp_path: Path) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        spec["connector"] = {"kind": "linear", "init_digest": "other"}
        spec["recipe_digest"] = "other"

    def declare(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        plant(spec, machine)
        for path in tmp_path.rglob("spec.json"):
            first = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**first, "may_differ": ["backbone", "connector"]}), encoding="utf-8")
        spec["may_differ"] = ["backbone", "connector"]

    report = audited(tmp_path, declare)
    assert titles(report.declared) == {"backbone", "backbone weights", "connector", "connector start"}
    assert titles(report.undeclared) == {"recipe"}


def test_a_factor_counts_as_declared_only_if_every_run_declares_it(tmp_path: Path) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        spec["may_differ"] = ["backbone", "connector"]
        spec["connector"]["kind"] = "linear"

    assert "connector" in titles(audited(tmp_path, plant).undeclared)


def test_equal_backbones_with_other_weights_are_not_excused(tmp_path: Path) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        spec["backbone"]["name"] = "small-vit"

    assert titles(audited(tmp_path, plant).undeclared) == {"backbone weights"}


def test_normalisation_belongs_to_the_backbone(tmp_path: Path) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        spec["backbone"]["geometry"]["mean"] = [0.1, 0.2, 0.3]

    report = audited(tmp_path, plant)
    assert "normalisation" in titles(report.declared)
    assert not report.undeclared


def test_the_wiring_explains_all_that_it_changes(tmp_path: Path) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        spec["backbone"] |= {"name": "small-vit", "weights_sha256": "w-vit", "frozen_mode": "train", "tap": "stage-2"}
        spec["backbone"]["geometry"]["mean"] = [0.5, 0.5, 0.5]
        spec["connector"]["init_digest"] = "drawn from the width"

    def declare(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        plant(spec, machine)
        for path in tmp_path.rglob("spec.json"):
            first = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**first, "may_differ": ["wiring"]}), encoding="utf-8")
        spec["may_differ"] = ["wiring"]

    report = audited(tmp_path, declare)
    assert not report.undeclared
    assert titles(report.declared) == {"frozen mode", "tap", "normalisation", "connector start"}


def test_seeds_explain_the_order_and_the_connector_start(tmp_path: Path) -> None:
    report = audited(tmp_path, nothing, seeds=(7, 8))
    assert {"seed", "batch order", "connector start"} <= titles(report.declared)
    assert not report.undeclared
    assert not report.warnings


def test_one_arm_with_another_order_at_the_same_seed_is_found_among_many_seeds(tmp_path: Path) -> None:
    def plant(spec: dict[str, Any], machine: dict[str, Any]) -> None:
        if spec["seed"] == 8:
            spec["order_digest"] = "other"

    assert titles(audited(tmp_path, plant, seeds=(7, 8)).undeclared) == {"batch order"}


def test_the_findings_are_plain_data(tmp_path: Path) -> None:
    findings = json.loads(json.dumps(audited(tmp_path, nothing).as_dict()))
    assert findings["runs"] == ["vit/seed-7", "vmamba/seed-7"]
    assert findings["warnings"][0] == {
        "key": "single-seed",
        "severity": "warning",
        "runs": ["vit/seed-7", "vmamba/seed-7"],
        "message": "one seed: the intervals do not cover variation between training runs",
        "evidence": {"seeds": [7]},
        "together": True,
        "docs": "docs/audit.md#single-seed",
    }


def test_unlike_questions_are_undeclared(tmp_path: Path) -> None:
    audited(tmp_path, nothing)
    for arm in ("vit", "vmamba"):
        index = tmp_path / arm / "seed-7" / "predictions" / "benchmarks.json"
        index.parent.mkdir()
        index.write_text(
            json.dumps({"pope": {"group": "vqa", "title": "t", "metric": "m", "questions_digest": arm}}),
            encoding="utf-8",
        )
    assert titles(audit(load_runs([tmp_path])).undeclared) == {"questions and true answers"}


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no run"):
        find_runs([tmp_path])


def test_one_run_alone_cannot_be_audited(tmp_path: Path) -> None:
    audited(tmp_path, nothing)
    with pytest.raises(DataError, match="at least two runs"):
        audit(load_runs([tmp_path / "vit" / "seed-7"]))


def test_a_record_without_its_recipe_is_named(tmp_path: Path) -> None:
    audited(tmp_path, nothing)
    path = tmp_path / "vit" / "seed-7" / "spec.json"
    path.write_text(json.dumps({"arm": "vit", "seed": 7}), encoding="utf-8")
    with pytest.raises(DataError, match=r"spec\.json: recipe_digest: missing"):
        audit(load_runs([tmp_path]))
