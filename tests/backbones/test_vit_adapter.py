from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.backbones.state import load_state
from eyeswap.backbones.vit_adapter import ViTAdapter, deformable_attention, reference_points
from eyeswap.errors import CheckpointError, ShapeError, SpecError

SMALL = {
    "pretrain_size": 64, "embed_dim": 24, "depth": 4, "num_heads": 2, "conv_inplane": 4,
    "deform_num_heads": 3,
    "interaction_indexes": ((0, 0), (1, 1), (2, 2), (3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("tap", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_level_k_has_stride_two_to_the_k_plus_one(tap, size):
    network = ViTAdapter(**SMALL, tap=tap).eval()
    assert network.token_grid(*size) == tuple(side // 2 ** (tap + 1) for side in size)
    with torch.no_grad():
        assert network(torch.randn(1, 3, *size)).shape == (1, size[0] * size[1] // 4 ** (tap + 1), 24)


def test_only_the_tapped_level_is_built():
    keys = ViTAdapter(**SMALL, tap=3).state_dict()
    assert {key.split(".")[0] for key in keys if key.startswith(("norm", "up"))} == {"norm3"}
    assert "spm.fc1.weight" not in keys
    assert "spm.fc1.weight" in ViTAdapter(**SMALL, tap=1).state_dict()


def test_checkpoints_without_layer_scale_load_as_ones_and_other_gaps_do_not():
    network = ViTAdapter(**SMALL)
    state = {key: value for key, value in network.state_dict().items() if not key.endswith((".gamma1", ".gamma2"))}
    load_state(network, state, source="test")
    assert bool((network.blocks[0].gamma1 == 1).all())
    with pytest.raises(CheckpointError, match=r"missing key interactions\.0\.injector\.gamma"):
        load_state(network, {k: v for k, v in state.items() if k != "interactions.0.injector.gamma"}, source="test")


def test_impossible_taps_and_sizes_are_named():
    with pytest.raises(SpecError, match="level 5"):
        ViTAdapter(**SMALL, tap=5)
    with pytest.raises(SpecError, match="interactions"):
        ViTAdapter(**{**SMALL, "interaction_indexes": ((0, 3),)})
    with pytest.raises(ShapeError, match="multiples of 32"):
        ViTAdapter(**SMALL).token_grid(48, 64)


def test_every_parameter_learns_at_the_finest_level():
    network = ViTAdapter(**SMALL, tap=1).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def bilinear(raster: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Read ``raster [h, w, d]`` at (x, y) in 0..1, zeros outside, one cell at a time."""
    rows, columns, depth = raster.shape
    column, row = x * columns - 0.5, y * rows - 0.5
    total = torch.zeros(depth, dtype=raster.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < rows and 0 <= j < columns:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * raster[i, j]
    return total


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), heads=st.integers(1, 3), points=st.integers(1, 3))
def test_deformable_attention_is_the_weighted_sum_of_bilinear_samples(seed, heads, points):
    generator = torch.Generator().manual_seed(seed)
    sizes, depth, queries = [(3, 4), (2, 1)], 2, 3
    length = sum(rows * columns for rows, columns in sizes)
    value = torch.randn(1, length, heads, depth, generator=generator, dtype=torch.float64)
    locations = torch.rand(1, queries, heads, 2, points, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(1, queries, heads, 2, points, generator=generator, dtype=torch.float64)
    got = deformable_attention(value, sizes, locations, weights)
    for query in range(queries):
        for head in range(heads):
            want = torch.zeros(depth, dtype=torch.float64)
            start = 0
            for level, (rows, columns) in enumerate(sizes):
                raster = value[0, start : start + rows * columns, head].reshape(rows, columns, depth)
                start += rows * columns
                for point in range(points):
                    x, y = locations[0, query, head, level, point].tolist()
                    want += weights[0, query, head, level, point] * bilinear(raster, x, y)
            assert torch.allclose(got[0, query, head * depth : (head + 1) * depth], want, atol=1e-12)


def test_reference_points_are_cell_centres_row_by_row():
    points = reference_points([(2, 2), (1, 4)], torch.zeros((), dtype=torch.float64))
    assert points[:4].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert points[4:].tolist() == [[0.125, 0.5], [0.375, 0.5], [0.625, 0.5], [0.875, 0.5]]


def test_reading_every_cell_centre_returns_the_map():
    value = torch.randn(2, 12, 1, 3)
    centres = reference_points([(3, 4)], value)[None, :, None, None, None].expand(2, -1, -1, -1, -1, -1)
    read = deformable_attention(value, [(3, 4)], centres, torch.ones(2, 12, 1, 1, 1))
    assert torch.allclose(read, value[:, :, 0], atol=1e-6)
