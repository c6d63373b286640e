"""A visual token is the same number whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from eyeswap.backbones.base import batch_size, encode
from eyeswap.backbones.weights import load_backbone


def test_batches_follow_the_canvas():
    assert [batch_size(side, side) for side in (32, 128, 224, 384, 512, 1024)] == [8, 8, 8, 2, 1, 1]
    assert batch_size(800, 1333) == 1


@pytest.mark.parametrize("name", ["digits-vit", "digits-maxvit", "digits-vmamba", "digits-mambavision"])
def test_tokens_do_not_depend_on_their_batch(name: str):
    network = load_backbone(name).network
    pixels = torch.randn(11, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    together = encode(network, pixels)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    assert encode(network, pixels[order]).equal(together[order])
    assert encode(network, pixels[3:4]).equal(together[3:4])
    assert together.equal(together.half().float())
    torch.testing.assert_close(together, network(pixels), rtol=1e-3, atol=1e-3)


def test_as_published_the_whole_batch_is_seen_at_once():
    network = load_backbone("digits-mambavision", wiring="as-published").network.train()
    sizes = []
    network.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    encode(network, torch.randn(11, 3, 128, 128))
    assert sizes == [11]
