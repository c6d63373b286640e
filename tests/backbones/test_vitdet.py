from __future__ import annotations

import pytest
import torch

from eyeswap.backbones.vitdet import Block, ViTDet, relative_table
from eyeswap.errors import ShapeError, SpecError

SMALL = {
    "img_size": 64, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "window_size": 3,
    "window_block_indexes": (0, 2), "pretrain_img_size": 32,
}  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (32, 72), (8, 40)])
def test_grid_is_exact_at_oblong_sizes_that_windows_do_not_divide(size):
    network = ViTDet(**SMALL).eval()
    with torch.no_grad():
        tokens = network(torch.randn(2, 3, *size))
    assert tokens.shape == (2, (size[0] // 8) * (size[1] // 8), 16)


def test_sizes_that_are_no_multiple_of_the_patch_are_refused():
    with pytest.raises(ShapeError, match="multiples of 8"):
        ViTDet(**SMALL)(torch.randn(1, 3, 60, 64))


def test_blocks_after_the_tap_are_not_built():
    assert ViTDet(**SMALL, tap=0).beyond_tap == ("blocks.1.", "blocks.2.")
    with pytest.raises(SpecError, match="block 3"):
        ViTDet(**SMALL, tap=3)


def test_relative_table_is_indexed_by_query_minus_key():
    table = torch.arange(5.0)[:, None]
    unfolded = relative_table(table, 3)[..., 0]
    assert unfolded.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_relative_table_of_another_size_is_resized_linearly():
    assert relative_table(torch.arange(5.0)[:, None], 5).shape == (5, 5, 1)
    constant = relative_table(torch.full((5, 1), 3.0), 9)
    assert torch.allclose(constant, torch.tensor(3.0))


@pytest.mark.parametrize(("window", "reach"), [(3, {(0, 0), (1, 2), (2, 1)}), (None, {(0, 0), (4, 4), (2, 3)})])
def test_windowed_blocks_see_their_window_and_global_blocks_see_all(window, reach):
    block = Block(16, 2, 4.0, window=window, side=window or 5, drop_path_rate=0.0)
    raster = torch.randn(1, 5, 5, 16, requires_grad=True)
    block(raster)[0, 0, 0].sum().backward()
    touched = {tuple(cell) for cell in raster.grad[0].abs().amax(-1).nonzero().tolist()}
    assert reach <= touched
    assert len(touched) == (9 if window else 25)


def test_stochastic_depth_acts_in_training_mode_only():
    network = ViTDet(**SMALL, drop_path_rate=0.9)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not all(torch.equal(network.train()(image), network(image)) for _ in range(5))
        assert torch.equal(network.eval()(image), network(image))
