"""Predictors are tried on the encoders of finished studies, each probed once, and told apart from none honestly."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.errors import DataError, SpecError
from eyeswap.planning.spec import load_study
from eyeswap.probing import probe as probe_module
from eyeswap.probing.labelled import digits_images
from eyeswap.progress import progress
from eyeswap.results.encoders import Encoder, find_encoders, probe_encoders
from eyeswap.results.predict import ACCURACY, family_errors, known_before, predict

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "miniature"
STUDIES = {
    name: ROOT / "studies" / "miniature" / f"{name}.yaml"
    for name in ("matched", "stage", "token-budget", "as-published")
}
SETTINGS = {"source": "digits", "num_images": 20, "settings": {"seed": 0}}


def found(*names: str) -> list[Encoder]:
    return find_encoders([load_study(STUDIES[name]) for name in names], RESULTS).encoders


def made_up_probe(number: int) -> dict[str, Any]:
    readings = [
        {"site": site, "task": task, "readout": "linear", "score": 10.0 * number}
        for site in ("visual tokens", "connector")
        for task in ("there", "where")
    ]
    statistics = {"visual tokens": {"norm": 1.0, "effective_rank": 9.0 - number}, "connector": {"norm": 7.0}}
    return {**SETTINGS, "readings": readings, "statistics": statistics, "correspondence": 0.5}


def test_an_encoder_of_two_studies_is_one_with_the_mean_of_its_runs() -> None:
    encoders = found("matched", "stage")
    names = [encoder.name for encoder in encoders]
    assert len(names) == len(set(names)) == 7  # four families, and three other taps
    vmamba = next(encoder for encoder in encoders if encoder.name == "matched/vmamba")
    scores = [
        json.loads((RESULTS / study / "results.json").read_text())["arms"]["vmamba"]["averages"]["vqa"]["value"]
        for study in ("matched", "stage")
    ]
    assert vmamba.num_runs == 5 + 3
    assert vmamba.scores["vqa"] == pytest.approx(np.average(scores, weights=(5, 3)))
    again = next(encoder for encoder in found("matched", "stage", "as-published") if encoder.name == "matched/vmamba")
    assert (again.num_runs, again.scores) == (8, pytest.approx(vmamba.scores))  # as-published has the runs of stage
    assert vmamba.accuracy == pytest.approx(91.85)


def test_a_norm_behind_the_tap_makes_another_encoder() -> None:
    encoders = {encoder.name: encoder for encoder in found("as-published")}
    assert set(encoders) == {f"as-published/{arm}" for arm in ("vmamba", "vmamba-norm", "mambavision-before-mixers")}
    plain, normed = encoders["as-published/vmamba"], encoders["as-published/vmamba-norm"]
    assert plain.record == normed.record  # which does not tell
    assert plain.folder != normed.folder


def test_an_arm_that_differs_in_more_than_its_encoder_is_left_out() -> None:
    studies = [load_study(STUDIES[name]) for name in ("matched", "token-budget")]
    left_out = find_encoders(studies, RESULTS).left_out
    assert left_out["token-budget/vmamba-16"] == "another recipe or connector"
    assert "token-budget/vmamba-64" not in left_out


def test_a_study_without_results_is_one_line(tmp_path: Path) -> None:
    study = load_study(STUDIES["matched"])
    with pytest.raises(DataError, match="no such file; eyeswap report writes it"):
        find_encoders([study], tmp_path)
    (tmp_path / "matched").mkdir()
    (tmp_path / "matched" / "results.json").write_text('{"arms": {"vit": {"finished": true}}}')
    with pytest.raises(DataError, match=r"not the results\.json of a report"):
        find_encoders([study], tmp_path)


def store_probe(encoder: Encoder, folder: Path, number: int) -> None:
    (folder / encoder.folder).mkdir(parents=True)
    (folder / encoder.folder / "probe.json").write_text(json.dumps(made_up_probe(number)))


def test_probes_of_other_images_are_not_mixed_with_these(tmp_path: Path) -> None:
    encoder = found("matched")[0]
    store_probe(encoder, tmp_path, 1)
    with progress() as board:
        [stored] = probe_encoders([encoder], digits_images(20), tmp_path, board, device="cpu", seed=0)
        assert stored == made_up_probe(1)
        with pytest.raises(SpecError, match="other images or settings"):
            probe_encoders([encoder], digits_images(21), tmp_path, board, device="cpu", seed=0)


def test_an_encoder_whose_weights_changed_is_not_probed_for_its_results() -> None:
    encoder = found("matched")[0]
    assert encoder.load().record() == encoder.record
    changed = replace(encoder, record={**encoder.record, "weights_sha256": "0" * 64})
    with pytest.raises(DataError, match="no longer those of its results"):
        changed.load()


def test_what_is_known_beforehand_is_of_the_visual_tokens_alone() -> None:
    encoder = found("matched")[0]
    assert known_before(encoder, made_up_probe(2)) == {
        ACCURACY: encoder.accuracy, "parameters": float(encoder.record["num_parameters"]), "tokens": 64.0,
        "there, linear readout": 20.0, "where, linear readout": 20.0,
        "norm": 1.0, "effective rank": 7.0, "correspondence": 50.0,
    }  # fmt: skip


def test_families_left_out_are_predicted_by_the_others() -> None:
    families = ["a"] * 3 + ["b"] * 3
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    error, plain_error = family_errors(x, 10 + 2 * x, families)
    assert error == pytest.approx(0, abs=1e-9)
    assert plain_error == pytest.approx(np.sqrt(np.mean([4.0, 6.0, 8.0, 4.0, 6.0, 8.0]) ** 2 + 8 / 3))
    assert family_errors(x, x, ["a"] * 6) == (None, None)
    assert family_errors(x[:4], x[:4], ["a", "a", "b", "b"]) == (None, None)  # two cannot show a slope


def encoders_with_scores(scores: list[float]) -> list[Encoder]:
    study = load_study(STUDIES["matched"])
    return [
        Encoder(study, "vit", {"name": "digits-vit", "family": "ab"[row % 2]}, {}, {"vqa": score}, 1)
        for row, score in enumerate(scores)
    ]


def test_a_number_that_orders_encoders_is_first_and_told_apart_from_none_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(70, 5, 14).tolist()
    known = [
        {ACCURACY: float(noise), "seen": score + 0.1 * float(noise), "same": 3.0}
        for score, noise in zip(scores, rng.normal(size=14), strict=True)
    ]
    predictions = {one.predictor: one for one in predict(encoders_with_scores(scores), known)}
    assert next(iter(predictions)) == "seen"
    seen, accuracy = predictions["seen"], predictions[ACCURACY]
    assert seen.decided
    assert seen.generalizes
    assert seen.lead is not None
    assert seen.lead.low > 0
    assert not accuracy.decided
    assert accuracy.lead is None
    assert predictions["same"].correlation.value is None


def test_the_command_uses_the_probes_that_are_there_and_writes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "probe_backbone", None)  # nothing is probed again
    for number, encoder in enumerate(found("matched")):
        store_probe(encoder, tmp_path / "probes", number)
    words = ["predictors", STUDIES["matched"], "--results", RESULTS, "--count", 20, "--probes", tmp_path / "probes"]
    result = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "VQA: rank correlation over 4 encoders" in result.stdout
    assert "where, linear readout" in result.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "encoders.csv").read_text().splitlines()))
    assert [row["encoder"] for row in rows] == [f"matched/{arm}" for arm in ("vit", "maxvit", "vmamba", "mambavision")]
    content = json.loads((tmp_path / "out" / "predictors.json").read_text())
    assert len(content["predictions"]) == 3 * 8
    assert not any(one["decided"] for one in content["predictions"])  # four encoders decide nothing
    assert (tmp_path / "out" / "predictors.png").read_bytes()[:4] == b"\x89PNG"
