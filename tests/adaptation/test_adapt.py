"""`eyeswap adapt`: it learns, resumes exactly, and leaves weights that load as a backbone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from eyeswap.adaptation import run as run_module
from eyeswap.adaptation.adapt import Request, adapt
from eyeswap.adaptation.data import open_data
from eyeswap.adaptation.recipe import load_recipe
from eyeswap.adaptation.run import Adaptation
from eyeswap.backbones import catalog
from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.data.digits.dense import write_ade20k, write_coco
from eyeswap.errors import CheckpointError, DataError, EyeswapError, RunError, SpecError
from eyeswap.planning.spec import load_study
from eyeswap.study.backbones import Backbones

TINY = {"steps": 6, "batch": 2, "width": 16, "head_depth": 1, "train_images": 4, "val_images": 2, "scales": [2, 1]}
GEOMETRY = "letterbox-64"


def begin(objective="detection", name="digits-vit", changes=(), **options) -> Adaptation:
    entry = catalog.entry(name).with_changes(geometry=GEOMETRY)
    torch.manual_seed(0)
    recipe = load_recipe(objective, changes={**TINY, **dict(changes)})
    data = open_data("digits", objective, recipe.train_images)
    return Adaptation(objective, entry.build(), entry.geometry, data, recipe, **options)


def weights(run: Adaptation) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in run.network.state_dict().items()}


@pytest.mark.parametrize("objective", ["classification", "detection", "segmentation"])
def test_the_loss_of_a_few_images_falls(objective: str) -> None:
    losses: list[float] = []
    changes = {"steps": 15, "train_images": 2, "lr": 3e-3, "backbone_lr": 1e-3}
    begin(objective, changes=changes).train(lambda step, loss: losses.append(loss))
    assert len(losses) == 15
    assert losses[-1] < 0.8 * losses[0]


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_SAVES", 0.0)
    changes = {"mirror": True}
    whole = begin(changes=changes)
    whole.train()

    def kill(step: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    saved = tmp_path / "unfinished.pt"
    with pytest.raises(KeyboardInterrupt):
        begin(changes=changes, saved=saved).train(kill)
    again = begin(changes=changes, saved=saved)
    assert again.step == 3
    again.train()
    assert again.step == 6
    assert again.curve == whole.curve
    assert all(value.equal(weights(whole)[key]) for key, value in weights(again).items())


def test_a_run_of_other_settings_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    saved = tmp_path / "unfinished.pt"
    begin(changes={"steps": 1}, saved=saved, run_digest="this").train()
    with pytest.raises(CheckpointError, match="other settings; delete it"):
        begin(saved=saved, run_digest="that")
    torch.save({"run": "this", "step": 1}, saved)
    with pytest.raises(CheckpointError, match="damaged"):
        begin(saved=saved, run_digest="this")


def test_bf16_trains_in_float32_weights() -> None:
    run = begin("segmentation", changes={"steps": 1, "precision": "bf16"})
    run.train()
    assert all(value.isfinite().all() for value in weights(run).values())
    assert run.network.backbone.pos_embed.dtype == torch.float32


def test_a_loss_that_is_no_number_ends_the_run_in_one_line() -> None:
    run = begin()
    with torch.no_grad():
        run.network.score.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="the loss is nan at step 0; lower lr"):
        run.train()


@pytest.mark.extended
@pytest.mark.parametrize("name", ["digits-maxvit", "digits-mambavision"])
def test_families_with_buffers_are_saved_with_them(name: str, tmp_path: Path) -> None:
    recipe = load_recipe("segmentation", changes={**TINY, "steps": 1, "val_images": 1})
    path, card = adapt(Request("segmentation", name, "digits", recipe), tmp_path, device="cpu", workers=0)
    before, after = load_backbone(name), load_backbone(name, path)
    changed = {
        key for key, value in after.network.state_dict().items() if not value.equal(before.network.state_dict()[key])
    }
    assert any("running_mean" in key for key in changed)
    assert 0 <= card["metrics"]["mIoU"] <= 1


def test_an_adapted_backbone_comes_with_a_card_and_loads_strictly(tmp_path: Path) -> None:
    recipe = load_recipe("segmentation", changes=TINY)
    request = Request("segmentation", "digits-vit", "digits", recipe, geometry=GEOMETRY)
    path, card = adapt(request, tmp_path, device="cpu", workers=0)
    assert path.name == "digits-vit-segmentation.safetensors"
    loaded = load_backbone("digits-vit", path, geometry=GEOMETRY)
    assert loaded.token_grid == (4, 4)
    assert loaded.weights_sha256 != card["backbone"]["weights_sha256"] == load_backbone("digits-vit").weights_sha256
    assert card["command"] == (
        "eyeswap adapt --objective segmentation --backbone digits-vit --data digits --geometry letterbox-64"
    )
    assert card["data"] == {
        "source": "digits", "categories": 14, "train": 4, "val": 500, "digest": card["data"]["digest"]
    }  # fmt: skip
    assert card["recipe"] == recipe.model_dump(mode="json")
    assert {"mIoU", "pixel accuracy"} == set(card["metrics"])
    assert card["environment"]["packages"]["torch"]
    assert not list(tmp_path.glob("*.unfinished*"))
    assert adapt(request, tmp_path, device="cpu", workers=0) == (path, card)  # a finished run is not repeated
    with pytest.raises(CheckpointError, match="other settings; choose another --out"):
        adapt(replace(request, recipe=load_recipe("segmentation", changes={**TINY, "seed": 8})), tmp_path)


def coco_folder(root: Path) -> Path:
    write_coco(root, {"train": 3, "val": 3}, 0, lambda count: None)
    return root


def ade_folder(root: Path) -> Path:
    write_ade20k(root, {"train": 3, "val": 3}, 0, lambda count: None)
    return root


def test_official_folders_hold_the_same_as_the_scenes(tmp_path: Path) -> None:
    coco = open_data(str(coco_folder(tmp_path / "coco")), "detection")
    digits = open_data("digits", "detection")
    assert (coco.source, coco.categories, len(coco.train), len(coco.val)) == ("coco", digits.categories, 3, 3)
    for stored, drawn in zip(coco.val, digits.val, strict=False):
        assert [each.category for each in stored.instances] == [each.category for each in drawn.instances]
        assert stored.open().size == drawn.open().size
    ade, digits = open_data(str(ade_folder(tmp_path / "ade")), "segmentation"), open_data("digits", "segmentation")
    assert (ade.categories, len(ade.train), len(ade.val)) == (digits.categories, 3, 3)
    assert (ade.val[1].labels() == digits.val[1].labels()).all()
    assert coco.digest != ade.digest


@pytest.mark.parametrize("objective", ["classification", "detection", "segmentation"])
def test_the_command_adapts_on_official_folders(objective: str, tmp_path: Path) -> None:
    if objective == "detection":
        pytest.importorskip("pycocotools")
    folder = (ade_folder if objective == "segmentation" else coco_folder)(tmp_path / "data")
    changes = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items() if key != "steps"]
    arguments = ["adapt", "--objective", objective, "--backbone", "digits-vit", "--data", str(folder), "--steps", "2"]
    options = ["--out", str(tmp_path / "out"), "--geometry", GEOMETRY, "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, *options, *changes])
    assert result.exit_code == 0, result.output
    assert "2 validation images of data: " in result.output
    assert f"digits-vit-{objective}.safetensors" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "digits-vot"], "no backbone 'digits-vot' in the catalog"),
        (["--data", "nowhere"], "nowhere: no such folder; write digits"),
        (["--geometry", "keep-ratio-64"], "needs a fixed canvas"),
        (["--tap", "9"], "tap: block 9 does not exist"),
        (["--weights", "gone.safetensors"], "no such weights file"),
        (["--set", "stepps=3"], "recipe: stepps: unknown key. Did you mean steps?"),
        (["--set", "width=12"], "width 12: must be a multiple of 8"),
        (["--set", "scales=[1,2]"], "choose from"),
        (["--recipe", "gone.yaml"], "gone.yaml: no such file"),
        (["--device", "warp"], "--device warp"),
    ],
)
def test_a_mistake_is_said_in_one_line_before_anything_starts(options, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["adapt", "--objective", "segmentation"]
    arguments += [] if "--backbone" in options else ["--backbone", "digits-vit"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unreadable_training_image_stops_the_run_and_a_mended_one_lets_it_go_on(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "coco")
    data = open_data(str(root), "detection")
    broken = root / "train2017" / "000000000002.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    entry = catalog.entry("digits-vit").with_changes(geometry=GEOMETRY)
    recipe = load_recipe("detection", changes=TINY)
    saved = tmp_path / "unfinished.pt"
    with pytest.raises(DataError, match=r"000000000002.jpg: not a readable image"):
        Adaptation("detection", entry.build(), entry.geometry, data, recipe, saved=saved).train()
    broken.write_bytes(content)
    Adaptation("detection", entry.build(), entry.geometry, data, recipe, saved=saved).train()


def test_categories_of_train_and_val_must_agree(tmp_path: Path) -> None:
    root = coco_folder(tmp_path)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "zero"
    path.write_text(json.dumps(content))
    with pytest.raises(EyeswapError, match="its categories differ"):
        open_data(str(root), "detection")


def test_a_recipe_file_sets_keys_and_options_override_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: 9\nlr: 1e-4\n")
    recipe = load_recipe("detection", path, {"steps": 4})
    assert (recipe.steps, recipe.lr, recipe.scales) == (4, 1e-4, (2, 1, 0.5))
    path.write_text("- steps\n")
    with pytest.raises(SpecError, match="expected the keys of an adaptation recipe"):
        load_recipe("detection", path)


def test_an_adapted_backbone_is_an_arm(tmp_path: Path) -> None:
    recipe = load_recipe("segmentation", changes={**TINY, "steps": 1})
    request = Request("segmentation", "digits-vit", "digits", recipe, geometry=GEOMETRY)
    path, _ = adapt(request, tmp_path, device="cpu", workers=0)
    study = tmp_path / "dense.yaml"
    study.write_text(
        "question: Which?\nrecipe: {data: digits, llm: digits-llm}\n"
        "arms:\n"
        "  classification: {backbone: digits-vit, geometry: letterbox-64}\n"
        f"  segmentation: {{backbone: digits-vit, geometry: letterbox-64, weights: {path.name}}}\n"
        "may_differ: [backbone, geometry]\nbenchmarks: [pope]\n"
    )
    arm = Backbones(load_study(study))["segmentation"]
    assert arm.token_grid == (4, 4)
    assert not any(parameter.requires_grad for parameter in arm.network.parameters())
    adapted = load_backbone("digits-vit", path, geometry=GEOMETRY)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(arm.network(pixels), adapted.network(pixels))
    assert not torch.equal(arm.network(pixels), Backbones(load_study(study))["classification"].network(pixels))
