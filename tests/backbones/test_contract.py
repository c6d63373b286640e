"""What every backbone of the catalog promises, whatever its family."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import ShapeError
from eyeswap.files import canonical_json

MINIATURES = [name for name in catalog.names() if name.startswith("digits-")]
SIZES = {  # sizes beside the canvas that the family allows: odd ones, and ones that are not square
    "vit": [(128, 128), (64, 160), (16, 16)],
    "maxvit": [(128, 128), (64, 192), (61, 125)],
    "vmamba": [(128, 128), (97, 201), (33, 1)],
    "mambavision": [(128, 128), (97, 201), (130, 70)],
}


def miniature(name: str) -> VisionBackbone:
    torch.manual_seed(0)
    return catalog.entry(name).build()


@functools.cache
def without_memory(family: str, variant: str | None, architecture: str, tap: catalog.Tap) -> VisionBackbone:
    """Build a network once for all entries that share it."""
    entry = next(entry for entry in catalog.entries().values() if entry.family == family)
    changed = entry.model_copy(update={"variant": variant, "architecture": json.loads(architecture), "tap": tap})
    with torch.device("meta"):
        return changed.build()


@pytest.mark.parametrize("name", catalog.names())
def test_every_entry_builds_and_its_grid_fits_its_canvas(name):
    for wiring in ("controlled", "as-published"):
        entry = catalog.entry(name).wired(wiring)
        architecture = {key: value for key, value in entry.architecture.items() if key != "drop_path_rate"}
        network = without_memory(entry.family, entry.variant, canonical_json(architecture), entry.tap)
        height, width = entry.geometry.canvas
        rows, columns = network.token_grid(height, width)
        assert rows * columns >= 49
        assert abs(height / rows - width / columns) < 1
        measured = {"parameters": network.num_parameters, "tokens": [rows, columns], "width": network.embed_dim}
        recorded = None if entry.size is None else entry.size.model_dump(mode="json")
        if wiring == "controlled":
            assert recorded == measured, f"write size: {canonical_json(measured)} into the catalog"


@pytest.mark.parametrize("name", MINIATURES)
def test_token_grid_is_that_of_a_real_forward_pass(name):
    network = miniature(name).eval()
    for size in SIZES[catalog.entry(name).family]:
        rows, columns = network.token_grid(*size)
        with torch.no_grad():
            tokens = network(torch.randn(1, 3, *size))
        assert tokens.shape == (1, rows * columns, network.embed_dim), size
        assert bool(tokens.isfinite().all())


@pytest.mark.parametrize("name", MINIATURES)
def test_a_frozen_backbone_gives_the_same_tokens_in_a_training_parent(name):
    network = miniature(name)
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 128, 128))  # let running statistics leave their start
        before = network.freeze()(image)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        torch.nn.Sequential(network).train()
        assert not any(module.training for module in network.modules())
        assert torch.equal(network(image), before)
        assert torch.equal(network(image), before)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", MINIATURES)
def test_an_image_has_the_same_tokens_alone_and_in_a_batch(name):
    network = miniature(name).freeze()
    images = torch.randn(3, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(network(images)[1:2], network(images[1:2]), atol=1e-4)


@pytest.mark.parametrize("name", MINIATURES)
def test_every_parameter_of_the_cut_network_matters(name):
    network = miniature(name).train()
    network(torch.randn(2, 3, 128, 128)).square().mean().backward()
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "pixels",
    [torch.rand(3, 128, 128), torch.rand(1, 128, 128, 3), torch.zeros(1, 3, 128, 128, dtype=torch.uint8)],
    ids=["no batch", "channels last", "bytes"],
)
def test_what_is_no_batch_of_images_is_refused_in_one_line(pixels):
    with pytest.raises(ShapeError, match=r"pixel_values are \[.*expected \[B, 3, H, W\] of floats") as caught:
        miniature("digits-vit").freeze()(pixels)
    assert "\n" not in str(caught.value)
