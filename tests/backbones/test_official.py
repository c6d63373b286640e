"""`check_weights` on files that fit, miss, lack and break."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from classifiers import VMambaClassifier
from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import WeightsSource
from eyeswap.backbones.conformance import check_weights
from eyeswap.backbones.vit import ViT
from eyeswap.errors import CheckpointError
from eyeswap.files import read_safetensors, sha256_of, write_safetensors

NAME = "digits-vit"


@pytest.fixture
def whole(tmp_path):
    """A file of the whole network of the entry: its last block, norm and head too."""
    architecture = catalog.entry(NAME).architecture
    torch.manual_seed(0)
    state = ViT(**architecture, tap=-1, final_norm=True).state_dict()
    path = tmp_path / "whole.safetensors"
    write_safetensors(path, {**state, "head.weight": torch.zeros(5, 128), "head.bias": torch.zeros(5)})
    return path


def test_a_file_that_fits_is_described_by_what_was_used_of_it(whole):
    found = {one.check: one for one in check_weights(NAME, whole)}
    assert list(found) == ["file", "sha256", "licence", "keys", "tokens", "repeat"]
    assert {one.status for one in found.values()} == {"ok"}
    assert str(whole) in found["file"].found
    assert sha256_of(whole) in found["sha256"].found
    own, everything = len(catalog.entry(NAME).build().state_dict()), len(read_safetensors(whole))
    assert f"{everything} tensors of the network: {own} used, {everything - own} beyond" in found["keys"].found
    assert "8x8 = 64 tokens of width 128" in found["tokens"].found


def test_a_folder_that_holds_the_file_will_do(whole, tmp_path, monkeypatch):
    source = WeightsSource(file="model.safetensors", hub="owner/name", layout="plain", licence="MIT")
    monkeypatch.setitem(catalog.entries(), NAME, catalog.entry(NAME).model_copy(update={"weights": source}))
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(
        CheckpointError, match=r"weights: has no owner/name/model\.safetensors, the weights of digits-vit"
    ):
        list(check_weights(NAME, folder))
    for place in ("model.safetensors", "owner/name/model.safetensors"):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole.read_bytes())
        found = list(check_weights(NAME, folder))
        assert str(path) in found[0].found
        assert found[-1].status == "ok"


def test_a_digest_of_the_catalog_is_compared(whole, monkeypatch):
    entry = catalog.entry(NAME)
    for digest, status in ((sha256_of(whole), "ok"), ("0" * 64, "failed")):
        weights = entry.weights.model_copy(update={"sha256": digest})
        monkeypatch.setitem(catalog.entries(), NAME, entry.model_copy(update={"weights": weights}))
        found = {one.check: one for one in check_weights(NAME, whole)}
        assert found["sha256"].status == status


def test_vmamba_counts_the_tensors_of_the_file_not_the_copies_made_of_them(tmp_path, monkeypatch):
    entry = catalog.entry("digits-vmamba")
    small = entry.model_copy(update={"architecture": {"embed_dim": 8, "depths": (1, 1, 1, 1), "norm": "none"}})
    monkeypatch.setitem(catalog.entries(), "digits-vmamba", small)
    whole = VMambaClassifier(num_classes=5, embed_dim=8, depths=(1, 1, 1, 1)).state_dict()
    torch.save(whole, tmp_path / "a.pth")
    used = len(small.build().state_dict())
    found = {one.check: one.found for one in check_weights("digits-vmamba", tmp_path / "a.pth")}
    assert f"{len(whole)} tensors of the network: {used} used, {len(whole) - used} beyond" in found["keys"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.safetensors", None, "no such weights file"),
        ("cut.safetensors", b"cut", "not a readable safetensors file"),
        ("page.pth", b"<html>404</html>", "refused, not a torch file with weights only"),
        ("empty.pkl", b"", "refused, not a pickle of arrays"),
    ],
)
def test_a_missing_or_damaged_file_is_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        list(check_weights(NAME, tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_of_another_entry_is_one_line_that_names_file_and_key(tmp_path):
    write_safetensors(tmp_path / "other.safetensors", catalog.entry("digits-maxvit").build().state_dict())
    with pytest.raises(CheckpointError, match=r"digits-vit: .*other\.safetensors: missing key cls_token and") as caught:
        list(check_weights(NAME, tmp_path / "other.safetensors"))
    assert "is this the right file for this entry?" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": "text"}, "no tensors under model"),
        ({"model": {"a": "text"}}, "a is a str, expected a tensor of numbers"),
        ({"model": {3: torch.zeros(1)}}, "missing key"),
        ([1, 2], "holds a list"),
        ({}, "the top level has nothing"),
    ],
)
def test_odd_content_is_one_line(tmp_path, content, words):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
        list(check_weights("vmamba-tiny-s1l8", tmp_path / "odd.pth"))
    assert "\n" not in str(caught.value)


def test_an_array_of_objects_in_a_pickle_is_one_line(tmp_path):
    content = {"model": {"backbone.net.pos_embed": np.array([None, {}], dtype=object)}}
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"backbone\.net\.pos_embed is a ndarray, expected a tensor of numbers"):
        list(check_weights("vitdet-b", tmp_path / "odd.pkl"))


def test_a_file_that_lacks_layer_scales_says_so(tmp_path, monkeypatch):
    entry = catalog.entry("vit-adapter-upernet-augreg-t-ade20k-512")
    small = {"pretrain_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2, "deform_num_heads": 2, "conv_inplane": 8}
    small["interaction_indexes"] = [[0, 0], [1, 1], [2, 2], [3, 3]]
    geometry = entry.geometry.override("corner-letterbox-64")
    small_entry = entry.model_copy(update={"architecture": small, "geometry": geometry})
    monkeypatch.setitem(catalog.entries(), entry.name, small_entry)
    state = {
        key: value
        for key, value in small_entry.build().state_dict().items()
        if not key.endswith((".gamma1", ".gamma2"))
    }
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    found = {one.check: one.found for one in check_weights(entry.name, tmp_path / "a.pth")}
    assert "0 beyond the tap; 8 absent and left at their initial values, such as blocks.0.gamma1" in found["keys"]
