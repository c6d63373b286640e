"""Uni-Perceiver with an adapter in the small; the recorded outputs are compared in ``tests/goldens``."""

import pytest
import torch
from torch import nn

from eyeswap.backbones.uniperceiver import Attention, UniPerceiverAdapter
from eyeswap.errors import SpecError

SMALL = {
    "pretrain_size": 64, "embed_dim": 24, "depth": 4, "num_heads": 2, "conv_inplane": 4, "deform_num_heads": 3,
    "interaction_indexes": ((0, 0), (1, 1), (2, 2), (3, 3)),
}  # fmt: skip


def small(**changes):
    torch.manual_seed(0)
    return UniPerceiverAdapter(**(SMALL | changes)).eval()


def test_every_layer_norm_has_the_larger_epsilon():
    norms = [module for module in small().modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) > 20
    assert {norm.eps for norm in norms} == {1e-5}


def test_the_embedding_is_normed_behind_place_and_moment():
    network, image = small(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        embedded = network.embed(image, (4, 4))
        assert torch.allclose(embedded.mean(2), torch.zeros(1, 16), atol=1e-5)
        for name in ("temporal_pos_embed", "spatial_pos_embed"):
            table = getattr(network.visual_embed.patch_embed, name).weight
            table[0].add_(torch.randn(24))
            assert not torch.allclose(network.embed(image, (4, 4)), embedded, atol=1e-3)
            embedded = network.embed(image, (4, 4))
        network.visual_embed.patch_embed.temporal_pos_embed.weight[1:].add_(1.0)  # other frames
        assert torch.equal(network.embed(image, (4, 4)), embedded)


def test_windows_are_padded_with_zeros_that_take_part():
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    attention.window = 3
    tokens = torch.randn(1, 2 * 5, 8, dtype=torch.float64)
    with torch.no_grad():
        raster = torch.zeros(3, 6, 8, dtype=torch.float64)
        raster[:2, :5] = tokens.view(2, 5, 8)
        mixed = torch.empty_like(raster)
        for left in (0, 3):
            whole = raster[:, left : left + 3].reshape(1, 9, 8)
            q, k, v = attention.in_proj(whole).view(9, 3, 2, 4).permute(1, 2, 0, 3)
            shares = (q @ k.transpose(1, 2) / 2).softmax(-1)
            mixed[:, left : left + 3] = (shares @ v).transpose(0, 1).reshape(3, 3, 8)
        want = attention.out_proj(mixed[:2, :5].reshape(1, 10, 8))
        assert torch.allclose(attention(tokens, (2, 5)), want, atol=1e-12)


def test_windows_have_an_entry_for_each_block():
    assert [layer.self_attn.window for layer in small(windows=(3, None, 2, None)).layers] == [3, None, 2, None]
    with pytest.raises(SpecError, match="windows: 2 entries for 4 blocks"):
        small(windows=(3, None))


@pytest.mark.parametrize("tap", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(64, 64), (32, 128)])
def test_every_level_has_its_stride_at_any_size(tap, size):
    with torch.no_grad():
        tokens = small(tap=tap, windows=(3, None, 2, None))(torch.randn(1, 3, *size))
    assert tokens.shape == (1, size[0] * size[1] // 4 ** (tap + 1), 24)


def test_every_parameter_learns_at_the_finest_level():
    network = small(tap=1).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
