"""What `import eyeswap` offers, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import eyeswap
from eyeswap.backbones import catalog
from eyeswap.files import sha256_of


def test_importing_the_package_is_light_and_its_names_come_when_used():
    code = (
        "import sys, eyeswap; assert {'load_backbone', 'ops'} <= set(dir(eyeswap)); "
        "assert not {'torch', 'transformers', 'numpy', 'pydantic', 'yaml', 'rich', 'PIL'} & set(sys.modules); "
        "assert callable(eyeswap.ops.selective_scan); assert callable(eyeswap.load_backbone)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_backbones'"):
        _ = eyeswap.load_backbones


def test_a_backbone_is_loaded_from_its_name_a_path_a_string_a_folder_and_tensors(tmp_path):
    first = eyeswap.load_backbone("digits-vit")
    assert isinstance(first, eyeswap.LoadedBackbone)
    assert first.weights_file is not None
    copy = tmp_path / "digits-vit.safetensors"
    copy.write_bytes(first.weights_file.read_bytes())
    image = torch.randn(1, 3, 128, 128)
    for weights in (copy, str(copy), tmp_path, str(tmp_path), first.network.state_dict()):
        again = eyeswap.load_backbone("digits-vit", weights)
        assert torch.equal(again.network(image), first.network(image))
    assert eyeswap.load_backbone("digits-vit", copy).weights_sha256 == sha256_of(copy)


def test_an_alias_is_recorded_under_the_name_of_its_entry(monkeypatch):
    entry = catalog.entry("digits-vit").model_copy(update={"aliases": ("small",)})
    monkeypatch.setitem(catalog.entries(), "digits-vit", entry)
    assert eyeswap.load_backbone("small").record()["name"] == "digits-vit"


def test_the_scan_takes_the_documented_shapes():
    B, D, S, L = 2, 4, 3, 5
    y = eyeswap.ops.selective_scan(
        torch.randn(B, D, L), torch.rand(B, D, L), -torch.rand(D, S), torch.randn(B, S, L), torch.randn(B, S, L),
        torch.ones(D), torch.zeros(D), True,
    )  # fmt: skip
    assert y.shape == (B, D, L)
    assert bool(y.isfinite().all())
