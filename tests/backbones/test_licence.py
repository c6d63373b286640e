"""Weights that may not be used commercially are loaded by name alone, and their licence is said once a process."""

from __future__ import annotations

import logging

import pytest

from eyeswap.backbones import catalog, fetch
from eyeswap.backbones.weights import load_backbone
from eyeswap.errors import CheckpointError
from eyeswap.files import write_safetensors

SMALL = {"dim": 8, "in_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 4), "window_size": (8, 8, 7, 7)}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A small stand-in for the files of two MambaVisions, and a process that has said nothing yet."""
    monkeypatch.setattr(fetch, "_warned", set())
    for name in ("mambavision-t", "mambavision-s"):
        small = catalog.entry(name).model_copy(update={"architecture": SMALL})
        monkeypatch.setitem(catalog.entries(), name, small)
    path = tmp_path / "small.safetensors"
    write_safetensors(path, catalog.entry("mambavision-t").build().state_dict())
    return path


def test_the_licence_is_said_once_a_process(file, caplog):
    with caplog.at_level(logging.WARNING, logger="eyeswap"):
        for name in ("mambavision-t", "mambavision-t", "mambavision-s"):
            load_backbone(name, file)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "eyeswap.backbones.fetch"]
    assert said == "the weights of mambavision-t are under CC-BY-NC-SA-4.0: for non-commercial use only"


def test_other_weights_pass_without_a_word(file, caplog):
    load_backbone("digits-mambavision")
    load_backbone("mambavision-t", catalog.entry("mambavision-t").build().state_dict())  # the caller's own numbers
    assert not [record for record in caplog.records if record.name == "eyeswap.backbones.fetch"]


def test_nothing_is_said_or_fetched_before_the_weights_are_asked_for(file, caplog, monkeypatch):
    def refuse(*_: object) -> None:
        raise CheckpointError("asked for")

    monkeypatch.setattr("eyeswap.backbones.weights.fetch", refuse)
    for entry in catalog.entries().values():
        entry.measured()
    catalog.entry("mambavision-t").build()
    assert not caplog.records
    with pytest.raises(CheckpointError, match="asked for"):
        load_backbone("mambavision-t")
