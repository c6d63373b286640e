"""What the published code left open is found in every arm of the paper that has it, and gone in its controlled twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from eyeswap.audit.audit import CHECKS
from eyeswap.audit.observed import canvas_of, tap_norm
from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.recipe import Wiring
from eyeswap.runs.record import RunRecord


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one image as COCO has them."""
    path = tmp_path_factory.mktemp("coco")
    Image.new("RGB", (640, 480)).save(path / "coco.png")
    return path


def record(name: str, seed: int, wiring: Wiring, folder: Path) -> RunRecord:
    """Return what a run of a catalog entry records of its backbone, without its weights."""
    entry = catalog.entry(name).wired(wiring)
    with torch.device("meta"):
        network = entry.build()
    loaded = LoadedBackbone(entry.name, entry.family, network, entry.geometry, "w" * 64, wiring, entry=entry)
    content: dict[str, Any] = {
        "arm": name,
        "seed": seed,
        "recipe_digest": "r",
        "llm": {},
        "connector": {},
        "backbone": loaded.record(),
        "observed": {
            "tap_norm": tap_norm(loaded),
            "llm_positions": 4096,
            "canvas": canvas_of(entry.geometry, entry.name, folder, {"refcoco": ["coco.png"]}),
        },
    }
    return RunRecord.model_validate(content)


def warned(name: str, wiring: Wiring, folder: Path) -> set[str]:
    runs = {f"{name}/seed-{seed}": record(name, seed, wiring, folder) for seed in (7, 8)}
    return {finding.key for check in CHECKS for finding in check(runs) if finding.severity == "warning"}


PUBLISHED = {
    "in1k-vit-s": set(),  # neither drop path nor BatchNorm: a note
    "in21k-vit-t": {"crop-loss"},
    "in1k-224px-maxvit-t-s3": {"train-mode"},
    "in1k-384px-maxvit-t-s3": {"train-mode", "normalisation"},
    "in1k-512px-maxvit-t-s3": {"train-mode", "normalisation"},
    "mambavision-t-s3": {"train-mode", "early-tap"},
    "mambavision-t": {"train-mode"},
    "vmamba-tiny-s1l8": {"train-mode", "tap-norm"},
    "vmamba-tiny-s1l8-maskrcnn-1x": {"train-mode", "padding", "object-scale", "beyond-positions"},
    "vmamba-tiny-s1l8-ade20k": {"train-mode"},  # 640x480 into 512x512 is shrunk either way
    "vitdet-b-maskrcnn": {"train-mode", "padding", "object-scale", "beyond-positions"},
}
# What remains with the wiring controlled: 4,096 and 4,200 tokens are the canvas' own.
CONTROLLED = {"vmamba-tiny-s1l8-maskrcnn-1x": {"beyond-positions"}, "vitdet-b-maskrcnn": {"beyond-positions"}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_published_is_warned_of_and_controlled_is_not(name: str, folder: Path) -> None:
    assert warned(name, "as-published", folder) == PUBLISHED[name]
    assert warned(name, "controlled", folder) == CONTROLLED.get(name, set())
