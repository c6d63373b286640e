"""A backbone's footprint is measured without weights, and agrees with networks as built and with published FLOPs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.footprints import shipped_entries
from torch import Tensor, nn

from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.geometry import ImageGeometry
from eyeswap.planning import footprint as module
from eyeswap.planning.count import measure
from eyeswap.planning.footprint import backbone_footprint, footprint_key


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path / "cache"))
    module._remembered.cache_clear()


class Partly(VisionBackbone):
    """One convolution runs; a head of 40 parameters never does."""

    embed_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 4, 8, 8)
        self.head = nn.Linear(4, 8)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return self.project(pixel_values).permute(0, 2, 3, 1)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return height // 8, width // 8


# GFLOP of the part before the tap, counted by others on the official code: 2 for each multiplication and addition.
@pytest.mark.parametrize(
    ("name", "geometry", "gflop"),
    [
        ("vmamba-tiny-s1l8", None, 8.2),
        ("vmamba-small-s2l15", None, 15.4),
        ("vmamba-base-s2l15", None, 27.2),
        ("vmamba-small-s2l15", "letterbox-512", 80.3),
        ("vmamba-tiny-s1l8-maskrcnn-1x", None, 175.0),
        ("vmamba-base-s2l15-maskrcnn-1x", None, 582.0),
    ],
)
def test_flops_agree_with_published_counts(name: str, geometry: str | None, gflop: float) -> None:
    assert backbone_footprint(name, "controlled", None, geometry).flops / 1e9 == pytest.approx(gflop, rel=0.03)


MINIATURES = ["digits-vit", "digits-maxvit", "digits-vmamba", "digits-mambavision"]


def test_the_package_has_the_footprint_of_every_catalog_entry_and_shipped_study() -> None:
    entries = shipped_entries()
    shipped = module._shipped()
    assert set(shipped) == set(entries), "run python -m benchmarks.footprints"
    for entry in catalog.entries().values():
        found, size = shipped[footprint_key(entry)], entry.measured()
        assert (found.grid, found.width, found.parameters) == (size.tokens, size.width, size.parameters), entry.name


@pytest.mark.parametrize("name", [*MINIATURES, "vitdet-b-maskrcnn"])
def test_footprints_of_the_package_are_those_of_the_networks(name: str) -> None:
    entry = catalog.entry(name)
    assert measure(entry.build_on_meta(), entry.geometry) == module._shipped()[footprint_key(entry)]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_footprint_agrees_with_the_catalog_and_all_parameters_run(name: str) -> None:
    found, size = backbone_footprint(name, "controlled", None, None), catalog.entry(name).measured()
    assert (found.grid, found.width, found.parameters) == (size.tokens, size.width, size.parameters)
    assert found.parameters_run == found.parameters


def test_parameters_that_do_not_run_are_not_counted_as_running() -> None:
    network = Partly()
    before = network.project.weight.clone()
    found = measure(network, ImageGeometry(canvas=(32, 32)))
    assert (found.parameters, found.parameters_run) == (3 * 64 * 4 + 4 + 40, 3 * 64 * 4 + 4)
    assert found.flops == 2 * 3 * 64 * 4 * 16
    assert torch.equal(network.project.weight, before)


def test_wiring_tap_and_geometry_decide_what_is_measured() -> None:
    tapped = backbone_footprint("digits-vmamba", "controlled", "2,-1", None)
    assert (tapped.tokens, tapped.width) == (256, 64)
    early = backbone_footprint("digits-mambavision", "as-published", None, None)
    assert early.parameters < backbone_footprint("digits-mambavision", "controlled", None, None).parameters
    varying = backbone_footprint("digits-vmamba", "controlled", None, "keep-ratio-480x640")
    assert (varying.canvas, varying.tokens) == ((480, 640), 30 * 40)


def test_a_footprint_is_remembered_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = backbone_footprint("digits-vit", "controlled", None, "letterbox-64")
    module._remembered.cache_clear()
    monkeypatch.setattr(module, "_measured", lambda *_: pytest.fail("measured again"))
    assert backbone_footprint("digits-vit", "controlled", None, "letterbox-64") == first
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text("not json", encoding="utf-8")
    module._remembered.cache_clear()
    monkeypatch.setattr(module, "_measured", lambda *_: first)
    assert backbone_footprint("digits-vit", "controlled", None, "letterbox-64") == first
