"""The checker passes what keeps the contract and names what breaks it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.conformance import CHECKS, assert_conforms, check_backbone
from eyeswap.backbones.weights import build_backbone
from eyeswap.errors import ShapeError
from eyeswap.geometry import ImageGeometry

GEOMETRY = ImageGeometry(canvas=(64, 64))


class Patches(VisionBackbone):
    """Keeps the contract: patches of 8 pixels through one convolution."""

    embed_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 16, 8, 8)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return self.project(pixel_values).permute(0, 2, 3, 1)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return height // 8, width // 8


class Transposed(Patches):
    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return super().feature_map(pixel_values).transpose(1, 2)


class ClassTokenKept(Patches):
    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens = super().forward(pixel_values)
        return torch.cat([tokens[:, :1], tokens], dim=1)


class Infinite(Patches):
    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return super().feature_map(pixel_values) / 0


class Broken(Patches):
    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return self.project(pixel_values) @ torch.zeros(3, 3)


class RoundsUp(Patches):
    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 8), -(-width // 8)


class SilentlyOneShort(Patches):
    """Breaks its promise where the base's own look at the shape does not see it."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens = super().forward(pixel_values)
        return tokens if pixel_values.shape[-2:] == (64, 64) else tokens[:, 1:]


class RefusesInItsOwnWords(Patches):
    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        if height != width:
            raise ValueError("square images only")
        return height // 8, width // 8


class Dropout(Patches):
    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.dropout(super().feature_map(pixel_values), 0.1)


class FollowsItsParent(Patches):
    def train(self, mode: bool = True) -> FollowsItsParent:
        nn.Module.train(self, mode)
        return self


class Drifts(Patches):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        self.seen += 1
        return super().feature_map(pixel_values)


class Learns(Patches):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = [torch.ones(16, requires_grad=True)]

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        return super().feature_map(pixel_values) * self.hidden[0]


class BatchStatistics(Patches):
    def feature_map(self, pixel_values: Tensor) -> Tensor:
        features = super().feature_map(pixel_values)
        return features - features.mean(0, keepdim=True)


class OwnForward(Patches):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.feature_map(pixel_values).flatten(1, 2)


def findings(network: VisionBackbone, geometry: ImageGeometry = GEOMETRY) -> dict[str, tuple[str, str]]:
    torch.manual_seed(0)
    found = check_backbone(network, geometry, with_speed=False)
    return {one.check: (one.status, f"{one.found}; {one.remedy}") for one in found}


def test_a_backbone_that_keeps_the_contract_passes_every_check():
    found = findings(Patches())
    assert list(found) == list(CHECKS)
    assert {status for status, _ in found.values()} == {"ok"}
    assert_conforms(Patches(), GEOMETRY)


@pytest.mark.parametrize("name", ["digits-vit", "digits-maxvit", "digits-vmamba", "digits-mambavision"])
def test_the_miniatures_pass(name):
    torch.manual_seed(0)
    assert_conforms(*build_backbone(name))


@pytest.mark.parametrize(
    ("network", "check", "words"),
    [
        (ClassTokenKept, "tokens", r"\[3, 65, 16\] .*give \[3, 64, 16\]; .*without prefix tokens"),
        (Infinite, "tokens", "not all finite"),
        (Broken, "tokens", r"RuntimeError: .*\(test_conformance\.py:\d+\)"),
        (Transposed, "raster", "rows and columns are swapped"),
        (RoundsUp, "grid", "33x35 pixels: token_grid says 5x5, forward fails: ShapeError"),
        (SilentlyOneShort, "grid", "token_grid says 4x8, forward gives 31 tokens"),
        (RefusesInItsOwnWords, "grid", "ValueError: square images only; raise ShapeError"),
        (Dropout, "repeat", "two passes over the same images differ"),
        (FollowsItsParent, "frozen", "put the backbone itself into training mode"),
        (Drifts, "frozen", "a forward pass changed seen"),
        (Learns, "frozen", "the tokens still requires a gradient"),
        (BatchStatistics, "batch", "relative difference"),
        (OwnForward, "bf16", "inside bf16 autocast"),
    ],
)
def test_a_broken_promise_is_named_with_a_remedy(network, check, words):
    torch.manual_seed(0)
    found = [one for one in check_backbone(network(), GEOMETRY, with_speed=False) if one.check == check]
    assert [one.status for one in found] == ["failed"]
    assert found[0].remedy
    with pytest.raises(AssertionError, match=f"{check}: .*{words}"):
        assert_conforms(network(), GEOMETRY)


def test_nothing_more_is_checked_where_the_network_does_not_run():
    assert list(findings(Broken())) == ["tokens"]


def test_a_size_that_is_refused_in_due_form_is_no_fault():
    class SquareOnly(Patches):
        def token_grid(self, height: int, width: int) -> tuple[int, int]:
            if (height, width) != (64, 64):
                raise ShapeError("64x64 pixels only")
            return 8, 8

    status, text = findings(SquareOnly())["grid"]
    assert status == "ok"
    assert "its own size only; rejects 32x64" in text


@pytest.mark.parametrize(
    ("mean", "std", "status", "words"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "failed", "divide mean and std by 255"),
        ((0.5, 0.5, 0.5), (0.5 / 255,) * 3, "failed", "as if colours were 0..255"),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "note", "only if the network normalises them itself"),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "ok", "normalised by mean 0.5/0.5/0.5"),
    ],
)
def test_colours_are_those_of_the_geometry(mean, std, status, words):
    found = findings(Patches(), ImageGeometry(canvas=(64, 64), mean=mean, std=std))["pixels"]
    assert found[0] == status
    assert words in found[1]


def test_a_geometry_that_forgets_its_mean_is_caught():
    class Forgets(ImageGeometry):
        def place(self, image):
            pixels, placement = super().place(image)
            return pixels * torch.tensor(self.std).view(3, 1, 1), placement

    assert findings(Patches(), Forgets(canvas=(64, 64)))["pixels"][0] == "failed"


def test_canvases_that_are_not_square_are_checked_too():
    geometry = ImageGeometry(strategy="corner-letterbox", canvas=(48, 96))
    found = findings(Patches(), geometry)
    assert {status for status, _ in found.values()} == {"ok"}
    assert findings(Transposed(), geometry)["tokens"][0] == "failed"


def test_speed_and_memory_are_measured(monkeypatch):
    monkeypatch.setattr("eyeswap.backbones.measure.BUDGET_S", 0.01)
    *_, speed, memory = check_backbone(Patches(), GEOMETRY)
    assert (speed.check, memory.check) == ("speed", "memory")
    assert "images/s at batch 1" in speed.found
    assert "images/s at batch 8" in speed.found
    assert f"{torch.get_num_threads()} CPU threads" in speed.found
    assert "weights" in memory.found


def test_a_batch_that_would_take_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr("eyeswap.backbones.measure.BUDGET_S", 0.0)
    monkeypatch.setattr("eyeswap.backbones.measure.LONGEST_PASS_S", 0.0)
    *_, speed, _ = check_backbone(Patches(), GEOMETRY)
    assert "batch 8" not in speed.found
