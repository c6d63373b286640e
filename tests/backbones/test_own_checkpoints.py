"""A person's own checkpoint is refused as strictly as any, but the line says what it is and what makes it fit."""

from __future__ import annotations

import argparse
import functools
import re

import pytest
import torch
from typer.testing import CliRunner

from eyeswap.backbones import catalog
from eyeswap.backbones.state import advice, load_state, repack
from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.errors import CheckpointError


@functools.cache
def state():
    torch.manual_seed(0)
    return catalog.entry("digits-vit").build().state_dict()


def behind(prefix):
    return {f"{prefix}{key}": value for key, value in state().items()}


OPTIMIZER = {"state": {number: {"exp_avg": torch.zeros(2)} for number in range(3)}, "param_groups": []}
CHECKPOINTS = {
    "below model": ({"model": state()}, "--key model"),
    "below state_dict": ({"state_dict": state(), "epoch": 3}, "--key state_dict"),
    "a training checkpoint": (
        {"optimizer": OPTIMIZER, "model": state(), "model_ema": state(), "args": argparse.Namespace(lr=1)},
        "--key model",
    ),
    "data parallel": (behind("module."), "--strip module."),
    "data parallel and compiled": (behind("_orig_mod.module."), "--strip _orig_mod.module."),
    "both": ({"state_dict": behind("module.")}, "--key state_dict --strip module."),
    "a detector": (
        {"state_dict": behind("backbone.") | {"head.x": torch.zeros(1)}},
        "--key state_dict --strip backbone.",
    ),
    "three deep": ({"a": {"b": {"c": state()}}}, "--key a.b.c"),
}


def refusal(call):
    with pytest.raises(CheckpointError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_command_of_the_refusal_makes_a_file_that_is_read(name, tmp_path, monkeypatch):
    content, options = CHECKPOINTS[name]
    monkeypatch.chdir(tmp_path)
    torch.save(content, "mine.pth")
    message = refusal(lambda: load_backbone("digits-vit", "mine.pth"))
    command = re.search(r"`eyeswap (.*?)`", message)[1]
    assert command == f"backbones convert FILE OUT.safetensors {options}"
    done = CliRunner().invoke(app, command.replace("FILE", "mine.pth").split())
    assert done.exit_code == 0, done.output
    loaded = load_backbone("digits-vit", "OUT.safetensors")
    assert all(torch.equal(value, state()[key]) for key, value in loaded.network.state_dict().items())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tensors_at_hand_are_refused_as_a_file_is(name):
    content, options = CHECKPOINTS[name]
    assert options in refusal(lambda: load_backbone("digits-vit", content))


def test_a_prefix_inside_an_official_container_is_told_with_the_container(tmp_path):
    with torch.device("meta"):
        keys = catalog.entry("vmamba-tiny-s1l8").build().state_dict()
    torch.save({"model": {f"module.{key}": torch.zeros(1) for key in keys}}, tmp_path / "mine.pth")
    message = refusal(lambda: load_backbone("vmamba-tiny-s1l8", tmp_path / "mine.pth"))
    assert "--key model --strip module.`" in message


def test_a_plain_file_for_an_entry_with_a_container_is_told_to_be_converted(tmp_path):
    torch.save(state(), tmp_path / "mine.pth")
    message = refusal(lambda: load_backbone("vmamba-tiny-s1l8", tmp_path / "mine.pth"))
    assert "no tensors under model; the top level has cls_token" in message
    assert "if these are the weights, `eyeswap backbones convert FILE OUT.safetensors`" in message


def test_another_network_is_not_taken_for_a_wrapped_one():
    network = catalog.entry("digits-vit").build()
    other = {key: value for key, value in state().items() if not key.startswith("blocks.3")}
    assert "is this the right file for this entry?" in refusal(lambda: load_state(network, other, "mine"))
    assert advice(other, list(state())) == ""
    assert advice({"epoch": 3}) == ""


def test_a_key_or_prefix_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save({"model": behind("module.")}, path)
    assert "holds no dictionary under net" in refusal(lambda: repack(path, "net"))
    assert 'under "model"' in refusal(lambda: repack(path, "net"))
    message = "no tensor under model whose name starts with 'encoder.'"
    assert message in refusal(lambda: repack(path, "model", "encoder."))
    assert "no tensor at the top level" in refusal(lambda: repack(path))


def test_classes_that_a_checkpoint_asks_for_come_with_a_remedy(tmp_path):
    torch.save({"model": state(), "where": tmp_path}, tmp_path / "mine.pth")
    message = refusal(lambda: load_backbone("digits-vit", tmp_path / "mine.pth"))
    assert "it asks for pathlib.PosixPath" in message
    assert "torch.save(model.state_dict(), FILE)" in message


def test_an_archive_is_told_to_be_unpacked(tmp_path):
    (tmp_path / "weights.zip").write_bytes(b"")
    assert "unpack it" in refusal(lambda: load_backbone("digits-vit", tmp_path / "weights.zip"))


def test_converting_writes_safetensors_only(tmp_path):
    torch.save(state(), tmp_path / "mine.pth")
    done = CliRunner().invoke(app, ["backbones", "convert", str(tmp_path / "mine.pth"), str(tmp_path / "out.pth")])
    assert done.exit_code != 0
    assert not (tmp_path / "out.pth").exists()
