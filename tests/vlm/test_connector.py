import pytest
import torch
from torch import nn

from eyeswap.errors import SpecError
from eyeswap.vlm.connector import build_connector


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("linear", 384 * 4096 + 4096),
        ("gelu-mlp", 385 * 4096 + 4097 * 4096),
        ("fused-gelu-mlp", 385 * 1536 + 1537 * 4096 + 4097 * 4096),
    ],
)
def test_connectors_have_the_published_sizes(kind: str, parameters: int):
    connector = build_connector(kind, 384, 4096, seed=0)
    assert sum(parameter.numel() for parameter in connector.parameters()) == parameters


def test_initial_weights_follow_the_seed_alone():
    first, again, other = (build_connector("gelu-mlp", 8, 16, seed) for seed in (1, 1, 2))
    assert first[0].weight.equal(again[0].weight)
    assert not first[0].weight.equal(other[0].weight)
    assert first[0].weight.abs().max() <= 1 / 8**0.5


def test_an_unknown_kind_names_the_nearest_one():
    with pytest.raises(SpecError, match="Did you mean gelu-mlp"):
        build_connector("gelu-mpl", 8, 16, seed=0)


def test_as_published_the_seed_is_the_token_width_whatever_the_run_says():
    published = build_connector("fused-gelu-mlp", 8, 16, seed=7, wiring="as-published")
    torch.manual_seed(8)  # what the published code does: the global seed, then PyTorch's own draw, layer by layer
    expected = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 16))
    assert all(a.equal(b) for a, b in zip(published.parameters(), expected.parameters(), strict=True))
    other = build_connector("fused-gelu-mlp", 8, 16, seed=9, wiring="as-published")
    assert published[0].weight.equal(other[0].weight)
    assert not published[0].weight.equal(build_connector("fused-gelu-mlp", 8, 16, seed=7)[0].weight)


@pytest.mark.parametrize("wiring", ["controlled", "as-published"])
def test_building_leaves_other_randomness_alone(wiring: str):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_connector("gelu-mlp", 8, 16, seed=1, wiring=wiring)
    assert torch.rand(2).equal(expected)


@pytest.mark.parametrize("kind", ["linear", "gelu-mlp", "fused-gelu-mlp"])
def test_a_connector_tells_its_kind(kind: str):
    assert build_connector(kind, 8, 16, seed=1).kind == kind
