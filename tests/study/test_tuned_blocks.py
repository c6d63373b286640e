"""`trainable: connector+llm+blocks`: the last blocks of the backbone learn, all before them stay as they are."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from eyeswap.api import load_vlm
from eyeswap.audit.audit import audit
from eyeswap.backbones.catalog import entry
from eyeswap.backbones.weights import load_backbone
from eyeswap.errors import RunError, SpecError
from eyeswap.planning.estimate import Assumptions, estimate_study
from eyeswap.planning.spec import Study, load_study
from eyeswap.results.run import load_runs
from eyeswap.runs.folder import StudyFolder
from eyeswap.study.backbones import check_arms
from eyeswap.study.execute import run_study
from eyeswap.training.step import Trainer

STUDY = """
question: Does it help to tune the encoder too?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 12, num_val_images: 2, turns: 2}}
  llm: {llm}
  global_batch: 4
  lr: 1e-3
  warmup_fraction: 0
  precision: fp32
  blocks: {{last: 2, lr: 1e-4}}
arms:
  frozen: digits-vit
  tuned: {{backbone: digits-vit, trainable: connector+llm+blocks}}
may_differ: [backbone, trainable]
benchmarks: [pope]
subset: 2
execution: {{checkpoint_every_s: 0, workers: 0}}
"""


def run(file: Path, runs: str, study: Study | None = None) -> StudyFolder:
    return StudyFolder(run_study(study or load_study(file), file, file.parent / runs, Console(file=io.StringIO())))


@pytest.fixture(scope="module")
def file(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "tuned.yaml"
    path.write_text(STUDY.format(llm=tiny_llm), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(file: Path) -> StudyFolder:
    return run(file, "runs")


@pytest.mark.extended
def test_the_last_blocks_change_and_all_before_them_stay_bit_identical(finished: StudyFolder) -> None:
    before = load_backbone("digits-vit").network
    after = load_file(finished.run("tuned", 7).model / "backbone.safetensors")
    last = len(before.blocks_in_order()) - 2
    changed = {key for key, value in before.state_dict().items() if not value.equal(after[key])}
    learnt = {key for key in after if key.startswith("blocks.") and int(key.split(".")[1]) >= last}
    assert changed
    assert changed <= learnt
    assert {int(key.split(".")[1]) for key in changed} == {last, last + 1}
    assert not (finished.run("frozen", 7).model / "backbone.safetensors").exists()


@pytest.mark.extended
def test_a_saved_model_has_the_tuned_backbone_frozen(finished: StudyFolder) -> None:
    folder = finished.run("tuned", 7)
    model = load_vlm(folder.path, device="cpu")
    saved = load_file(folder.model / "backbone.safetensors")
    assert all(value.equal(saved[key]) for key, value in model.backbone.network.state_dict().items())
    assert model.tuned_blocks == []
    again = folder.path.parent / "again"
    model.save_pretrained(again, include_backbone=True)
    assert (again / "backbone.safetensors").read_bytes() == (folder.model / "backbone.safetensors").read_bytes()
    shutil.rmtree(again)


@pytest.mark.extended
def test_audit_says_that_the_question_is_another(finished: StudyFolder) -> None:
    report = audit(load_runs([finished.path]))
    assert not report.undeclared
    (finding,) = (finding for finding in report.warnings if finding.key == "tuned-backbone")
    assert (finding.severity, finding.runs) == ("warning", ("tuned/seed-7",))
    assert "changes the question" in finding.message


@pytest.mark.extended
def test_an_interrupted_training_ends_with_the_same_weights(
    finished: StudyFolder, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(file)
    study = study.model_copy(update={"arms": {"tuned": study.arms["tuned"]}})
    update, steps = Trainer.update, []

    def stop_after_two(self: Trainer) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise RunError("stopped")
        update(self)

    monkeypatch.setattr(Trainer, "update", stop_after_two)
    with pytest.raises(RunError):
        run(file, "again", study)
    monkeypatch.setattr(Trainer, "update", update)
    resumed = run(file, "again", study).run("tuned", 7)
    for name in ("backbone.safetensors", "model.safetensors"):
        assert (resumed.model / name).read_bytes() == (finished.run("tuned", 7).model / name).read_bytes()


def test_its_cost_is_counted_at_most(file: Path) -> None:
    estimate = estimate_study(load_study(file), Assumptions())
    frozen, tuned = estimate.arms["frozen"], estimate.arms["tuned"]
    assert frozen.footprint is not None
    assert tuned.flops_per_sample == frozen.flops_per_sample + 2 * frozen.footprint.flops
    assert any("as if all of them did" in note for note in tuned.notes)


def test_what_cannot_be_tuned_is_refused_in_one_line(file: Path) -> None:
    with pytest.raises(SpecError, match="wiring as-published leaves the backbone in train mode"):
        load_study(file, ["recipe.wiring=as-published"])
    too_many = load_study(file, ["recipe.blocks.last=99"])
    with pytest.raises(SpecError, match=r"99 blocks of the backbone are to learn, but .* has"):
        check_arms(too_many, ["tuned"], for_training=True)


@pytest.mark.parametrize("name", ["digits-vit", "digits-maxvit", "digits-mambavision"])
def test_every_family_says_which_its_last_blocks_are(name: str) -> None:
    network = entry(name).build().freeze()
    assert len(network.blocks_in_order()) >= 2
    (block,) = network.unfreeze(1)
    side = entry(name).geometry.canvas[0]
    network(torch.randn(1, 3, side, side)).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert not any(module.training for module in network.modules())
