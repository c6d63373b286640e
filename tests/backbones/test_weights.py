from __future__ import annotations

import argparse
import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from eyeswap.backbones import catalog
from eyeswap.backbones.state import LAYOUTS, load_state, read_weights, state_digest, unpack
from eyeswap.backbones.vit import ViT
from eyeswap.backbones.weights import check_backbone, load_backbone
from eyeswap.errors import CheckpointError, SpecError
from eyeswap.files import sha256_of, write_json, write_safetensors

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


class Evil:
    """A pickled call: whoever runs it leaves a file behind."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def whole_state() -> dict[str, torch.Tensor]:
    """Return what a whole checkpoint of the small ViT holds: all blocks, the norm, the head."""
    torch.manual_seed(0)
    state = ViT(**SMALL, tap=-1, final_norm=True).state_dict()
    return {**state, "head.weight": torch.zeros(5, 16), "head.bias": torch.zeros(5)}


def miniature_state(name: str = "digits-vit") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return catalog.entry(name).build().state_dict()


def test_parts_beyond_the_tap_are_left_out_and_the_rest_arrives():
    network = ViT(**SMALL)
    state = whole_state()
    load_state(network, state, source="test")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.1.attn.qkv.weight"), r"missing key blocks\.1\.attn\.qkv\.weight"),
        (lambda state: state.update({"blocks.7.extra": torch.zeros(1)}), r"unexpected key blocks\.7\.extra"),
        (
            lambda state: state.update({"pos_embed": torch.zeros(1, 9, 16)}),
            r"pos_embed has shape \(1, 9, 16\)",
        ),
        (lambda state: state["cls_token"].fill_(float("nan")), "cls_token contains NaN or infinite values"),
        (
            lambda state: state.update({"blocks.0.mlp.fc1.weight": torch.zeros(16, 64)}),
            r"blocks\.0\.mlp\.fc1\.weight has shape \(16, 64\), expected \(64, 16\)",
        ),
    ],
)
def test_every_misfit_is_an_error_that_names_the_key(change, message):
    state = whole_state()
    change(state)
    network = ViT(**SMALL)
    before = state_digest(network.state_dict())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state(network, state, source="file.pth")
    assert str(caught.value).startswith("file.pth: ")
    assert "\n" not in str(caught.value)
    assert state_digest(network.state_dict()) == before


def test_newer_vmamba_names_and_four_axis_linear_weights_are_the_same_numbers():
    state = {
        key: torch.randn(value.shape) for key, value in catalog.entry("digits-vmamba").build().state_dict().items()
    }
    newer = {}
    for key, value in state.items():
        if key.endswith(("x_proj_weight", "dt_projs_weight")):
            newer[key.replace("_weight", ".weight")] = value.flatten(0, 1)
        elif key.endswith(("in_proj.weight", "fc1.weight")):
            newer[key] = value[..., None, None]
        else:
            newer[key] = value
    assert set(newer) != set(state)
    network = load_backbone("digits-vmamba", weights=newer).network
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("layout", "content"),
    [
        ("plain", lambda state: state),
        ("model", lambda state: {"model": state, "epoch": 3}),
        (
            "backbone",
            lambda state: {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | {"neck.x": 1}},
        ),
        (
            "detectron2",
            lambda state: {"model": {f"backbone.net.{k}": v for k, v in state.items()} | {"roi.x": 1}},
        ),
        ("mambavision", lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}),
    ],
)
def test_each_layout_gives_back_the_official_names(layout, content):
    state = whole_state()
    unpacked = unpack(content(state), LAYOUTS[layout], "file")
    assert set(unpacked) == set(state)


def test_a_wrong_layout_is_named():
    with pytest.raises(CheckpointError, match="no tensors under model; the top level has optimizer"):
        unpack({"optimizer": {}}, LAYOUTS["model"], "file")
    with pytest.raises(CheckpointError, match=r"no key starts with 'backbone\.'"):
        unpack({"state_dict": {"head.x": torch.zeros(1)}}, LAYOUTS["backbone"], "file")


def test_files_of_all_kinds_give_the_same_network(tmp_path):
    state = miniature_state()
    write_safetensors(tmp_path / "a.safetensors", state)
    torch.save(state, tmp_path / "b.pth")
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    image = torch.randn(1, 3, 128, 128)
    outputs = []
    for file in ("a.safetensors", "b.pth", "c.pkl"):
        loaded = load_backbone("digits-vit", tmp_path / file)
        assert loaded.weights_sha256 == sha256_of(tmp_path / file)
        outputs.append(loaded.network(image))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_leftovers_of_training_tools_are_read_as_nothing(tmp_path, monkeypatch):
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = module.CfgNode(lr=module.CfgNode(base=1))
    config.__dict__["__immutable__"] = True
    content = {
        "model": whole_state(),
        "config": config,
        "args": argparse.Namespace(lr=1),
        "best": np.float64(3),
    }
    torch.save(content, tmp_path / "training.pth")
    monkeypatch.undo()
    assert set(read_weights(tmp_path / "training.pth", LAYOUTS["model"])) == set(whole_state())


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pkl"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, suffix):
    path, mark = tmp_path / f"evil{suffix}", tmp_path / "it-ran"
    content = {
        "model": {"cls_token": np.zeros(3) if suffix == ".pkl" else torch.zeros(3)},
        "x": Evil(str(mark)),
    }
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"refused.*(posix|nt)\.system") as caught:
        read_weights(path, LAYOUTS["model"])
    assert not mark.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(3)])
def test_damaged_files_are_refused_in_one_line(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(path, LAYOUTS["model"])
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such weights file"):
        read_weights(tmp_path / f"absent{suffix}", LAYOUTS["model"])


def test_controlled_is_frozen_for_good_and_published_follows_its_parent():
    state = miniature_state("digits-maxvit")
    for wiring, follows in (("controlled", False), ("as-published", True)):
        loaded = load_backbone("digits-maxvit", state, wiring)
        torch.nn.Sequential(loaded.network).train()
        assert loaded.network.training == follows
        assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
        assert loaded.record()["frozen_mode"] == ("train" if follows else "eval")


def test_record_and_description_tell_what_was_loaded():
    loaded = load_backbone("digits-vit", miniature_state(), tap="0", geometry="squash-64")
    record = loaded.record()
    assert record["tap"] == 0
    assert record["token_grid"] == [4, 4]
    assert record["geometry"]["strategy"] == "squash"
    assert record["num_parameters"] == loaded.network.num_parameters
    assert record["weights_sha256"] == state_digest(miniature_state())
    assert "4x4 tokens of width 128" in loaded.describe()
    assert "\n" not in loaded.describe()


def test_digest_of_tensors_sees_values_names_and_shapes():
    a = torch.arange(6.0)
    digests = [state_digest(state) for state in ({"a": a}, {"b": a}, {"a": a.reshape(2, 3)}, {"a": a + 1})]
    assert len(set(digests)) == 4
    assert state_digest({"a": a, "b": a}) == state_digest({"b": a.clone(), "a": a.clone()})


def test_a_packaged_file_that_is_absent_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog.WeightsSource, "packaged_path", lambda self: tmp_path / self.file)
    with pytest.raises(CheckpointError, match="eyeswap pretrain digits-vit"):
        load_backbone("digits-vit")


def test_unknown_names_are_spec_errors():
    with pytest.raises(SpecError, match="digits-vit"):
        load_backbone("digit-vit")


def test_importing_the_loader_needs_no_timm_and_no_torchvision():
    code = "import eyeswap.backbones.weights, sys; assert not {'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["digits-vit", "digits-vmamba", "digits-maxvit", "digits-mambavision"])
def test_a_backbone_is_checked_without_reading_its_numbers(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eyeswap.backbones.state.read_safetensors", None)  # would fail if it were called
    network, geometry = check_backbone(name)
    entry = catalog.entry(name)
    assert all(value.is_meta for value in network.state_dict().values())
    assert (geometry, network.token_grid(*geometry.canvas)) == (entry.geometry, entry.size.tokens)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("change", ["lacks a key", "another shape"])
def test_a_check_names_the_key_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, change: str
):
    state = load_backbone("digits-vit").network.state_dict()
    key = next(key for key in state if key.endswith("qkv.weight"))
    if change == "lacks a key":
        del state[key]
    else:
        state[key] = torch.zeros(3, 5)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(dict(state), path)
    else:
        write_safetensors(path, dict(state))
    monkeypatch.setattr("eyeswap.backbones.weights._locate", lambda entry, weights: path)
    words = {"lacks a key": f"missing key {key}", "another shape": f"{key} has shape (3, 5)"}
    with pytest.raises(CheckpointError, match=re.escape(words[change])):
        check_backbone("digits-vit")


def test_the_accuracy_on_the_card_of_a_pretraining_is_recorded(tmp_path):
    path = tmp_path / "half.safetensors"
    write_safetensors(path, miniature_state())
    assert "top1" not in load_backbone("digits-vit", path).record()
    card = {"name": "digits-vit", "command": "eyeswap pretrain digits-vit", "metrics": {"top1_accuracy": 0.4575}}
    write_json(tmp_path / "half.card.json", card)
    assert load_backbone("digits-vit", path).record()["top1"] == 45.75
    write_json(tmp_path / "half.card.json", {**card, "command": "eyeswap adapt --objective classification"})
    assert "top1" not in load_backbone("digits-vit", path).record()
    write_json(tmp_path / "half.card.json", {**card, "metrics": {"top1_accuracy": 45.75}})
    with pytest.raises(CheckpointError, match=r"top1_accuracy must be a number from 0 to 1, got 45\.75"):
        load_backbone("digits-vit", path)
