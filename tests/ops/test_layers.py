import pytest
import torch
from torch import nn

from eyeswap.ops.layers import DropPath, drop_path_rates, init_linear, init_state_matrix, init_step_bias


def test_drop_path_leaves_evaluation_alone():
    x = torch.rand(4, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(20_000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_drop_path_rates_rise_in_a_straight_line_over_all_blocks():
    rates = drop_path_rates(0.3, (1, 2, 1))
    assert [len(stage) for stage in rates] == [1, 2, 1]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_linear_layers_start_small_without_bias():
    layer = nn.Linear(300, 300)
    init_linear(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not layer.bias.any()


def test_step_sizes_start_in_the_range_of_mamba():
    bias = torch.empty(4, 500)
    init_step_bias(bias)
    steps = torch.nn.functional.softplus(bias)
    assert 1e-3 * 0.999 < steps.min() < 2e-3
    assert 0.05 < steps.max() < 0.1 * 1.001
    assert steps.log10().mean().item() == pytest.approx(-2, abs=0.05)


def test_state_matrix_starts_at_the_integers():
    A_log = torch.empty(6, 4)
    init_state_matrix(A_log)
    assert torch.allclose(A_log.exp(), torch.arange(1.0, 5.0).expand(6, 4))
