"""The recipe itself against recorded check values: if these fail, no golden can be compared."""

import json
import os
from pathlib import Path

import pytest
import torch
from recipe import formula_image, recipe_tensor

ROOT = Path(os.environ.get("EYESWAP_GOLDENS") or Path(__file__).parent / "data")
CHECKS = [json.loads(path.read_text()) for path in sorted(ROOT.rglob("recipe_check*.json"))]
WEIGHTS = {name: want for check in CHECKS for name, want in check["weights"].items()}
IMAGES = {name: want for check in CHECKS for name, want in check.get("images", {}).items()}
WITH_AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.parametrize("name", WEIGHTS)
def test_drawn_weights_are_the_recorded_ones(name):
    key, want = name.split(": ")[1], WEIGHTS[name]
    dtype = "int64" if key.endswith("num_batches_tracked") else "float32"
    weights = recipe_tensor(key, want["shape"], dtype).double()
    near = {"abs": 1e-11 if WITH_AVX2 else 1e-5, "rel": 1e-11 if WITH_AVX2 else 1e-5}
    assert weights.flatten()[: len(want["first"])].tolist() == pytest.approx(want["first"], **near)
    assert weights.sum().item() == pytest.approx(want["sum"], abs=1e-8 if WITH_AVX2 else 1e-2)
    if "abs_sum" in want:
        assert weights.abs().sum().item() == pytest.approx(want["abs_sum"], rel=1e-10 if WITH_AVX2 else 1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_formula_images_are_the_recorded_ones(name):
    want = IMAGES[name]
    image = formula_image(json.loads(name.split("shape ")[1]), int(name.split()[1])).double().flatten()
    assert image[: len(want["first"])].tolist() == pytest.approx(want["first"], abs=1e-7)
    assert image[-len(want["last"]) :].tolist() == pytest.approx(want["last"], abs=1e-7)
    assert image.abs().sum().item() == pytest.approx(want["abs_sum"], rel=1e-7)
