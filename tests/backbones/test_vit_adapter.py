from __future__ import annotations

import pytest
import torch

from eyeswap.backbones.state import load_state
from eyeswap.backbones.vit_adapter import ViTAdapter
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
