"""BEiT with an adapter in the small; the recorded outputs of the official sizes are compared in ``tests/goldens``."""

import pytest
import torch

from eyeswap.backbones.beit import BEiTAdapter, relative_bias
from eyeswap.backbones.state import load_state
from eyeswap.errors import CheckpointError

SMALL = {
    "pretrain_size": (64, 96), "embed_dim": 24, "depth": 4, "num_heads": 2, "conv_inplane": 4, "deform_num_heads": 3,
    "interaction_indexes": ((0, 0), (1, 1), (2, 2), (3, 3)),
}  # fmt: skip


def small(**changes):
    torch.manual_seed(0)
    return BEiTAdapter(**(SMALL | changes)).eval()


def test_the_bias_is_what_the_official_index_picks():
    rows, columns, heads = 3, 5, 2
    table = torch.randn((2 * rows - 1) * (2 * columns - 1) + 3, heads)
    bias = relative_bias(table, (rows, columns), (rows, columns))
    assert bias.shape == (heads, 16, 16)
    assert torch.equal(bias[:, 0, 0], table[-1])
    for query in range(15):
        assert torch.equal(bias[:, 0, 1 + query], table[-3])  # class to patch
        assert torch.equal(bias[:, 1 + query, 0], table[-2])  # patch to class
        for key in range(15):
            down, right = query // columns - key // columns, query % columns - key % columns
            place = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
            assert torch.equal(bias[:, 1 + query, 1 + key], table[place])


def test_a_table_for_another_grid_is_resized_and_keeps_its_class_rows():
    down, right = torch.meshgrid(torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 7), indexing="ij")
    table = torch.cat([(down + 10 * right).reshape(-1, 1), torch.tensor([[7.0], [8.0], [9.0]])])
    bias = relative_bias(table, (4, 4), (4, 8))[0]
    assert bias.shape == (33, 33)
    assert (bias[0, 1:] == 7).all()
    assert (bias[1:, 0] == 8).all()
    assert bias[0, 0] == 9
    assert bias[1 + 8, 1 + 8].abs() < 1e-5  # no offset
    assert bias[1 + 7, 1] > bias[1 + 3, 1] > 0  # keys to the left: larger offsets, larger entries


def test_the_class_token_runs_through_all_blocks_and_is_in_no_output():
    network, image = small(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        before = network(image)
        assert before.shape == (1, 24, 24)
        network.cls_token.add_(torch.randn(1, 1, 24))
        assert not torch.allclose(network(image), before, atol=1e-4)


def test_queries_and_values_have_a_bias_and_keys_have_none():
    keys = {key.rsplit(".", 1)[1] for key in small().state_dict() if key.startswith("blocks.0.attn")}
    assert {"q_bias", "v_bias"} <= keys
    assert "blocks.0.attn.qkv.bias" not in small().state_dict()
    assert not any("relative_position_index" in key for key in small().state_dict())


def test_index_buffers_of_a_file_are_dropped_and_nothing_else_is():
    network = small()
    index = {f"blocks.{i}.attn.relative_position_index": torch.zeros(25, 25, dtype=torch.int64) for i in range(4)}
    load_state(network, network.state_dict() | index, source="test")
    with pytest.raises(CheckpointError, match=r"unexpected key blocks\.0\.attn\.k_bias"):
        load_state(network, network.state_dict() | {"blocks.0.attn.k_bias": torch.zeros(24)}, source="test")
    lacking = {key: value for key, value in network.state_dict().items() if key != "blocks.2.gamma_1"}
    with pytest.raises(CheckpointError, match=r"missing key blocks\.2\.gamma_1"):
        load_state(network, lacking, source="test")


@pytest.mark.parametrize("tap", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(64, 96), (32, 128)])
def test_every_level_has_its_stride_at_any_size(tap, size):
    network = small(tap=tap)
    with torch.no_grad():
        assert network(torch.randn(1, 3, *size)).shape == (1, size[0] * size[1] // 4 ** (tap + 1), 24)


def test_every_parameter_learns_at_the_finest_level():
    network = small(tap=1).train()
    network(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
