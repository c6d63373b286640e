from __future__ import annotations

import pytest
import torch

from eyeswap.backbones import vit
from eyeswap.backbones.vit import MLP, ViT, resize_positions
from eyeswap.errors import ShapeError, SpecError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}


def test_blocks_after_the_tap_are_not_built():
    network = ViT(**SMALL)
    assert len(network.blocks) == 3  # the second-to-last of four is read
    assert network.beyond_tap == ("blocks.3.", "norm.", "head.")
    assert not [key for key in network.state_dict() if key.startswith(network.beyond_tap)]
    assert ViT(**SMALL, tap=0).num_parameters < network.num_parameters < ViT(**SMALL, tap=-1).num_parameters


def test_cutting_does_not_change_the_tokens():
    whole, cut = ViT(**SMALL, tap=-1), ViT(**SMALL, tap=1)
    cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
    seen = []
    whole.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole(image)
        assert torch.equal(cut(image), seen[0][:, 1:])


def test_tokens_come_row_by_row():
    network = ViT(**{**SMALL, "depth": 1}, tap=0)
    for parameter in network.blocks.parameters():
        torch.nn.init.zeros_(parameter)  # the block passes its input through
    torch.nn.init.zeros_(network.pos_embed)
    image = torch.zeros(1, 3, 16, 32)  # 2 x 4 patches
    image[:, :, 8:, 16:24] = 1  # row 1, column 2
    with torch.no_grad():
        tokens = network(image)[0]
    assert (tokens - tokens[0]).abs().amax(1).nonzero().flatten().tolist() == [1 * 4 + 2]


@pytest.mark.parametrize("tap", [4, -5])
def test_a_tap_that_does_not_exist_is_named(tap):
    with pytest.raises(SpecError, match=f"block {tap} does not exist in a network of 4 blocks"):
        ViT(**SMALL, tap=tap)


@pytest.mark.parametrize("size", [(33, 32), (32, 4), (0, 8)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(size):
    with pytest.raises(ShapeError, match="multiples of 8"):
        ViT(**SMALL).token_grid(*size)


def test_position_embedding_keeps_its_class_row_and_a_linear_ramp_when_resized():
    ramp = torch.linspace(0, 1, 8)[None, :, None].expand(8, 8, 1).transpose(0, 1).reshape(1, 64, 1)
    positions = torch.cat([torch.full((1, 1, 1), 7.0), ramp], dim=1)
    resized = resize_positions(positions, 1, (16, 12), antialias=True)
    assert resized.shape == (1, 1 + 16 * 12, 1)
    assert resized[0, 0, 0] == 7
    raster = resized[0, 1:, 0].reshape(16, 12)
    assert torch.allclose(raster, raster[:, :1].expand(-1, 12), atol=1e-6)  # rows vary, columns do not
    assert bool((raster[:, 0].diff() > 0).all())


def test_every_parameter_learns():
    network = ViT(**SMALL)
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in network.parameters())


def test_an_mlp_in_parts_gives_what_it_gives_at_once(monkeypatch):
    mlp, tokens = MLP(6, 24).double(), torch.randn(2, 5, 3, 6, dtype=torch.float64)
    whole = mlp(tokens)  # with gradients: at once
    monkeypatch.setattr(vit, "_HIDDEN_BYTES", 7 * 24 * 8)
    with torch.no_grad():
        assert torch.allclose(mlp(tokens), whole, rtol=1e-14)
    assert torch.equal(mlp(tokens), whole)
