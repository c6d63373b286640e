from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from eyeswap.backbones.maxvit import MaxViT, PartitionAttention, RelativePosition, pad_same
from eyeswap.errors import ShapeError, SpecError

SMALL = {"stem_dim": 8, "dims": (8, 16, 16, 32), "depths": (1, 1, 1, 1), "window": 2, "head_dim": 8}


def test_stages_after_the_tap_are_not_built():
    network = MaxViT(**SMALL, tap=2)
    assert len(network.stages) == 2
    assert network.embed_dim == 16
    assert network.beyond_tap == ("stages.2.", "stages.3.", "head.")


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (61, 125), (31, 32)])
def test_token_grid_is_that_of_the_network_at_even_odd_and_oblong_sizes(size):
    network = MaxViT(**SMALL, tap=3).eval()
    with torch.no_grad():
        features = network.feature_map(torch.randn(1, 3, *size))
    assert tuple(features.shape[1:3]) == network.token_grid(*size)


@pytest.mark.parametrize("size", [(48, 64), (20, 64), (0, 64)])
def test_sizes_without_whole_windows_are_refused(size):
    with pytest.raises(ShapeError, match="windows of 2"):
        MaxViT(**SMALL, tap=3).token_grid(*size)


def test_a_tap_that_does_not_exist_is_named():
    with pytest.raises(SpecError, match="stage 5 does not exist"):
        MaxViT(**SMALL, tap=5)


def test_window_follows_from_the_image_size():
    network = MaxViT(stem_dim=8, dims=(8,), depths=(1,), img_size=256, head_dim=8, tap=1)
    table = network.state_dict()["stages.0.blocks.0.attn_block.attn.rel_pos.relative_position_bias_table"]
    assert table.shape == (1, 15, 15)


@pytest.mark.parametrize("size", range(1, 9))
def test_same_padding_gives_ceil_of_half_and_pads_right_first(size):
    row = torch.ones(1, 1, size, size)
    padded = pad_same(row, kernel=3)
    assert F.conv2d(padded, torch.ones(1, 1, 3, 3), stride=2).shape[-1] == -(-size // 2)
    before = int(padded[0, 0, :, padded.shape[-1] // 2].argmax())
    after = padded.shape[-1] - size - before
    assert after - before in (0, 1)


def test_relative_bias_is_indexed_by_key_minus_query():
    position = RelativePosition(1, 3)
    with torch.no_grad():
        position.relative_position_bias_table.copy_(torch.arange(25.0).reshape(1, 5, 5))
    bias = position()[0]
    query, key = 0 * 3 + 1, 2 * 3 + 0  # from (0, 1) to (2, 0): down 2, left 1
    assert bias[query, key] == (2 + 2) * 5 + (2 - 1)


@pytest.mark.parametrize(
    ("dilated", "reached"),
    [(False, {(0, 0), (0, 1), (1, 0), (1, 1)}), (True, {(0, 0), (0, 3), (2, 0), (2, 3)})],
)
def test_windows_reach_neighbours_and_the_grid_reaches_far_cells(dilated, reached):
    attention = PartitionAttention(8, 2, 8, dilated=dilated).eval()
    raster = torch.randn(1, 4, 6, 8, requires_grad=True)
    attention(raster)[0, 0, 0].sum().backward()
    touched = raster.grad[0].abs().amax(-1).nonzero().tolist()
    assert {tuple(cell) for cell in touched} == reached


def test_every_parameter_learns():
    network = MaxViT(**SMALL, tap=3).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
