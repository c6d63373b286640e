"""`eyeswap pretrain` of a backbone: checkpoint, card and snapshots."""

from __future__ import annotations

import sys

import pytest
import torch

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import load_backbone
from eyeswap.files import read_json
from eyeswap.pretraining import backbone
from eyeswap.pretraining.pretrain import Snapshots, pretrain
from eyeswap.pretraining.recipes import RECIPES, ClassificationRecipe, Stage

TINY = ClassificationRecipe(stages=(Stage(32, (0.8, 1.0), 32, 1, 16, 1e-3),), evaluate_every=1)


def test_pretrain_leaves_a_checkpoint_with_its_card_and_snapshots(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["eyeswap.pretraining.pretrain"], "_WORKERS", 0)
    monkeypatch.setattr(backbone, "VALIDATION_IMAGES", 8)
    monkeypatch.setattr(backbone, "PROGRESS_IMAGES", 8)
    monkeypatch.setitem(RECIPES, "vit", TINY)
    path = pretrain("digits-vit", tmp_path)
    assert load_backbone("digits-vit", path).network.num_parameters == 1_098_240
    card = read_json(tmp_path / "digits-vit.card.json")
    assert card["command"] == "eyeswap pretrain digits-vit"
    assert card["recipe"]["stages"][0]["close_up"] == [0.8, 1.0]
    assert [step for step, _ in card["curve"]] == [1, 2]
    assert sorted(file.name for file in (tmp_path / "snapshots").glob("*.safetensors")) == [
        "digits-vit-at-50.safetensors",
        "digits-vit-at-75.safetensors",
        "digits-vit-at-97.safetensors",
    ]
    assert not list(tmp_path.glob("*.unfinished*"))


def test_the_weights_closest_to_a_share_of_the_target_are_kept(tmp_path):
    network = catalog.entry("digits-vit").build()
    snapshots = Snapshots(tmp_path, {"name": "digits-vit"}, TINY)
    for step, accuracy in enumerate([0.1, 0.46, 0.55, 0.7, 0.9]):
        with torch.no_grad():
            network.cls_token.fill_(step)
        snapshots.consider(network, step, accuracy)
    half, most = (load_backbone("digits-vit", tmp_path / f"digits-vit-at-{share}.safetensors") for share in (50, 75))
    assert half.network.cls_token.unique().item() == 1  # 0.46, closest to half of 0.95
    assert most.network.cls_token.unique().item() == 3
    assert read_json(tmp_path / "digits-vit-at-50.card.json")["metrics"]["top1_accuracy"] == 0.46


@pytest.mark.parametrize("name", ["digits-vit", "digits-maxvit", "digits-vmamba", "digits-mambavision"])
def test_a_snapshot_is_small_and_loads_close_to_what_was_trained(name, tmp_path):
    trained = load_backbone(name).network
    Snapshots(tmp_path, {"name": name}, TINY).consider(trained, 0, 0.5)
    path = tmp_path / f"{name}-at-50.safetensors"
    assert path.stat().st_size < 1_400_000
    loaded = load_backbone(name, path).network
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0.07, atol=1e-3, msg=key)
