from itertools import pairwise

import pytest
from torch import nn

from eyeswap.training.step import build_optimizer, learning_rate


def test_the_schedule_rises_then_falls_to_zero():
    rates = [learning_rate(step, 5198, 2e-5, 0.03) for step in range(5198)]
    assert rates[0] == 0.0
    assert rates[155] == pytest.approx(2e-5)
    assert rates.index(max(rates)) == 155
    assert rates[-1] < 1e-11
    assert all(a >= b for a, b in pairwise(rates[155:]))


def test_only_matrices_decay():
    optimizer = build_optimizer(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 0.1)
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert [parameter.ndim for parameter in decayed["params"]] == [2]
    assert len(plain["params"]) == 3
