"""An arm may name the file of its backbone's weights: it is loaded, recorded, saved with the model, and watched."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from eyeswap.api import load_vlm
from eyeswap.audit.audit import audit
from eyeswap.backbones.weights import check_backbone
from eyeswap.digests import known_sha256
from eyeswap.errors import CheckpointError, SpecError
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import load_study
from eyeswap.results.run import load_runs
from eyeswap.runs.folder import StudyFolder
from eyeswap.study.execute import run_study
from tiny_study import write_tiny_study


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"stem.0.weight": torch.full((8, 3, 16, 16), value), "stem.0.bias": torch.zeros(8)}


@pytest.fixture(scope="module")
def file(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose arms have one encoder with the weights that its code makes, and with two files."""
    path = write_tiny_study(tmp_path_factory.mktemp("weights"), tiny_llm, train=8, val=2, benchmarks=("pope",))
    for name, value in (("first", 0.01), ("second", 0.02)):
        save_file(weights(value), path.parent / f"{name}.safetensors")
    text = path.read_text(encoding="utf-8")
    arms = """\
  fresh: encoders.py:vit
  first: {backbone: "encoders.py:vit", weights: first.safetensors}
  second: {backbone: "encoders.py:vit", weights: second.safetensors}
"""
    head, _, rest = text.partition("  vit: encoders.py:vit\n  vmamba: encoders.py:vmamba\n")
    path.write_text(f"{head}{arms}{rest}subset: 4\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(file: Path) -> StudyFolder:
    console = Console(file=io.StringIO())
    return StudyFolder(run_study(load_study(file), file, file.parent / "runs", console))


def test_runs_record_the_file_and_save_its_weights_with_the_model(finished: StudyFolder, file: Path) -> None:
    records = {run.record.arm: run.record for run in load_runs([finished.path])}
    assert records["fresh"].backbone_file is None
    assert records["first"].backbone_file == known_sha256(file.parent / "first.safetensors")
    assert len({record.backbone.weights_sha256 for record in records.values()}) == 3
    saved = load_file(finished.run("first", 7).model / "backbone.safetensors")
    assert saved["stem.0.weight"].equal(weights(0.01)["stem.0.weight"])
    model = load_vlm(finished.run("second", 7).path, device="cpu", trust_remote_code=True)
    assert model.backbone.network.state_dict()["stem.0.weight"].equal(weights(0.02)["stem.0.weight"])
    assert not (finished.run("fresh", 7).model / "backbone.safetensors").exists()


def test_the_audit_takes_other_weights_for_another_backbone(finished: StudyFolder) -> None:
    report = audit(load_runs([finished.path]))
    assert not report.undeclared
    assert "backbone weights" in {fact.title for fact in report.declared}


def test_another_file_is_another_model_and_a_renamed_one_is_not(finished: StudyFolder, file: Path) -> None:
    def changes(value: str) -> list[str]:
        study = load_study(file, [f"arms.first.weights={value}"])
        return [str(change) for run in plan_runs(study, file.parent / "runs") for change in run.changes()]

    assert [change.partition(" ")[0] for change in changes("second.safetensors")] == [
        "arm.weights",
        "weights.backbone_file",
    ]
    (file.parent / "renamed.safetensors").write_bytes((file.parent / "first.safetensors").read_bytes())
    assert changes("renamed.safetensors") == []
    assert changes("null")[0].startswith('arm.weights was "first.safetensors"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "arms.first.weights=nowhere.pth",
            r"arms\.first\.weights: .*nowhere\.pth does not exist \(the path is relative",
        ),
        ("may_differ=[connector]", "backbones differ; add backbone to may_differ"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(file: Path, change: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        load_study(file, [change])
    assert "\n" not in str(caught.value)


def test_a_file_for_another_network_is_refused_before_anything_runs(file: Path, tmp_path: Path) -> None:
    save_file({"stem.0.weight": torch.zeros(8, 3, 8, 8), "stem.0.bias": torch.zeros(8)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: stem\.0\.weight has shape"):
        check_backbone(f"{file.parent}/encoders.py:vit", weights=tmp_path / "other.safetensors")
