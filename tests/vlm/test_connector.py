import pytest

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
