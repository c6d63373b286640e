"""Names of connectors: what they make of a grid, and what they cost, without building anything."""

import pytest

from eyeswap.connector_name import ConnectorName
from eyeswap.errors import SpecError


@pytest.mark.parametrize(
    ("text", "grid", "expected"),
    [
        ("gelu-mlp", (14, 14), (14, 14)),
        ("pool-2x2+gelu-mlp", (14, 14), (7, 7)),
        ("pool-2x3+linear", (5, 7), (3, 3)),  # windows at the edge hold what there is
        ("pixel-shuffle-2+gelu-mlp", (50, 84), (25, 42)),
        ("pixel-shuffle-3+gelu-mlp", (7, 8), (3, 3)),
        ("conv+fused-gelu-mlp", (8, 8), (8, 8)),
        ("pool-4x4+conv+gelu-mlp", (32, 32), (8, 8)),
        ("resampler-144+gelu-mlp", (14, 14), (1, 144)),
    ],
)
def test_grids_are_exact(text: str, grid: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ConnectorName.parse(text).grid(grid) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gelu-mpl", 'unknown value "gelu-mpl". Did you mean gelu-mlp'),
        ("pool-2x2", "behind the last . stands one of linear, gelu-mlp, fused-gelu-mlp"),
        ("pool-0x2+linear", "unknown step 'pool-0x2'"),
        ("pool-2+gelu-mlp", "known are pool-KxK, pixel-shuffle-K, resampler-N and conv"),
        ("resampler-64+conv+gelu-mlp", "nothing but the MLP can follow a resampler"),
        ("", 'unknown value ""'),
    ],
)
def test_what_is_no_connector_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        ConnectorName.parse(text)
    assert "\n" not in str(caught.value)


def test_an_mlp_multiplies_its_parameters_for_every_token_that_it_sees() -> None:
    plain, pooled = ConnectorName.parse("gelu-mlp"), ConnectorName.parse("pool-2x2+gelu-mlp")
    assert plain.multiplied((4, 4), 8, 32) == 16 * plain.parameters(8, 32)
    assert pooled.multiplied((4, 4), 8, 32) == 4 * plain.parameters(8, 32)
    assert pooled.parameters(8, 32) == plain.parameters(8, 32)
