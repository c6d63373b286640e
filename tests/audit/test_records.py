"""What was changed in a run's folder after it ended is seen, and records that cannot be true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyeswap.audit.finding import Finding
from eyeswap.audit.records import check_files
from eyeswap.backbones import catalog
from eyeswap.backbones.state import state_digest
from eyeswap.files import digest, sha256_of
from eyeswap.results.run import Run
from eyeswap.runs import seal
from eyeswap.runs.environment import code_version
from eyeswap.vlm.connector import build_connector

RECIPE = {"lr": 0.002, "connector": "gelu-mlp", "data": {"name": "digits", "seed": 0}}
LLM_WIDTH = 16


def connector_digest(seed: int = 7) -> str:
    connector = build_connector("gelu-mlp", 128, LLM_WIDTH, seed)
    return state_digest(connector.state_dict())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished and sealed run of a study, with everything in its place."""
    folder = tmp_path / "study" / "vit" / "seed-7"
    for part in ("model", "predictions"):
        (folder / part).mkdir(parents=True)
    spec = {
        "arm": "vit",
        "seed": 7,
        "recipe": RECIPE,
        "recipe_digest": digest(RECIPE),
        "backbone": {
            "name": "digits-vit",
            "embed_dim": 128,
            "tap": -2,
            "frozen_mode": "eval",
            "weights_sha256": sha256_of(catalog.entry("digits-vit").weights.packaged_path()),
        },
        "llm": {},
        "connector": {"kind": "gelu-mlp", "init_digest": connector_digest()},
    }
    study = {"recipe": RECIPE, "arms": {"vit": {"backbone": "digits-vit", "connector": None}}}
    files = {
        "spec.json": spec,
        "environment.json": {"code_version": code_version()},
        "scores.json": {"averages": {}},
        "model/config.json": {"text_config": {"hidden_size": LLM_WIDTH}},
        "predictions/benchmarks.json": {},
        "../../study.json": study,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    seal.write_seal(folder)
    return folder


def findings(run: Path) -> list[Finding]:
    return list(check_files("vit/seed-7", Run(run)))


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    how(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_an_untouched_run_has_no_finding(run: Path) -> None:
    assert findings(run) == []


@pytest.mark.parametrize("name", ["model/model.safetensors", "scores.json", "predictions/benchmarks.json"])
def test_a_swapped_file_is_named(run: Path, name: str) -> None:
    before = (run / name).read_bytes()
    (run / name).write_bytes(b"WEIGHTS" if before == b"weights" else before + b" ")  # weights keep their size
    (finding,) = findings(run)
    assert (finding.key, finding.severity) == ("changed-files", "error")
    assert finding.evidence == {"changed": [name]}


TAMPERING: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "recipe_digest": ("spec.json", lambda spec: spec.update(recipe_digest=digest({}))),
    "recipe": (
        "spec.json",
        lambda spec: spec.update(recipe=RECIPE | {"lr": 1.0}, recipe_digest=digest(RECIPE | {"lr": 1.0})),
    ),
    "seed": ("spec.json", lambda spec: spec.update(seed=8)),
    "arm": ("spec.json", lambda spec: spec.update(arm="vmamba")),
    "connector.kind": ("spec.json", lambda spec: spec["connector"].update(kind="linear")),
    "connector.init_digest": ("spec.json", lambda spec: spec["connector"].update(init_digest=connector_digest(8))),
    "backbone.name": ("../../study.json", lambda study: study["arms"]["vit"].update(backbone="digits-vmamba")),
    "backbone.weights_sha256": ("spec.json", lambda spec: spec["backbone"].update(weights_sha256="0" * 64)),
    "backbone.embed_dim": ("spec.json", lambda spec: spec["backbone"].update(embed_dim=64)),
}


@pytest.mark.parametrize("place", TAMPERING)
def test_a_false_record_is_seen_even_under_a_new_seal(run: Path, place: str) -> None:
    name, how = TAMPERING[place]
    change(run / name, how)
    seal.write_seal(run)
    (finding,) = findings(run)
    assert (finding.key, finding.severity) == ("contradiction", "error")
    assert place in finding.evidence


@pytest.mark.parametrize(("recorded", "count"), [("a", 0), ("b", 1)])
def test_weights_of_an_arm_s_own_are_compared_with_its_file(run: Path, recorded: str, count: int) -> None:
    arm = {"backbone": "digits-vit", "weights": "mine.safetensors"}
    weights = {"backbone": None, "backbone_file": 64 * "a"}
    model = {"recipe": RECIPE, "arm": arm, "seed": 7, "data": None, "weights": weights}
    change(run / "spec.json", lambda spec: spec.update(model=model))
    change(run / "spec.json", lambda spec: spec["backbone"].update(weights_sha256=64 * recorded))
    seal.write_seal(run)
    assert len(findings(run)) == count


def test_a_tampered_record_breaks_the_seal_too(run: Path) -> None:
    change(run / "spec.json", lambda spec: spec.update(data_digest="that of the other arm"))
    (finding,) = findings(run)
    assert finding.evidence == {"changed": ["spec.json"]}


def test_what_other_code_made_is_not_made_again(run: Path) -> None:
    change(run / "environment.json", lambda environment: environment.update(code_version="older"))
    change(run / "spec.json", lambda spec: spec["connector"].update(init_digest="drawn otherwise then"))
    seal.write_seal(run)
    assert findings(run) == []


def test_a_finished_run_without_a_seal_is_a_note(run: Path) -> None:
    (run / "seal.json").unlink()
    (finding,) = findings(run)
    assert (finding.key, finding.severity) == ("changed-files", "note")
