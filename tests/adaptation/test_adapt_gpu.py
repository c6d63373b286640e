"""Adaptation on a GPU: in bf16, with the Triton scan and its backward."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from eyeswap.adaptation.data import open_data
from eyeswap.adaptation.recipe import load_recipe
from eyeswap.adaptation.run import Adaptation
from eyeswap.backbones import catalog

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


@pytest.mark.parametrize("objective", ["classification", "detection", "segmentation"])
def test_a_step_trains_the_backbone_through_the_triton_scan(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from eyeswap.ops import _triton_ss2d

    calls = []
    backward = _triton_ss2d.scan_triton_backward
    monkeypatch.setattr(_triton_ss2d, "scan_triton_backward", lambda *inputs: calls.append(1) or backward(*inputs))
    entry = catalog.entry("digits-vmamba")
    recipe = load_recipe(objective, changes={"steps": 3, "batch": 2, "precision": "bf16", "val_images": 2})
    run = Adaptation(
        objective, entry.build(), entry.geometry, open_data("digits", objective), recipe, device=torch.device("cuda")
    )
    before = {key: value.clone() for key, value in run.network.backbone.state_dict().items()}
    run.train()
    assert len(calls) == 3 * sum(entry.architecture["depths"])
    after = run.network.backbone.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not value.equal(before[key]) for key, value in after.items() if key.endswith("A_logs"))
    if objective != "detection" or importlib.util.find_spec("pycocotools"):
        assert all(0 <= score <= 1 for score in run.evaluate().values())
