"""A frozen convolution, its BatchNorms and its activation, computed at once, equal the layers one after the other."""

import pytest
import torch
from torch import nn

from eyeswap.ops import conv_norm as module
from eyeswap.ops.conv_norm import conv_norm


def layers(groups: int = 1, kernel: int = 3, bias: bool = True) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm2d]:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, kernel, stride=2 if kernel == 3 else 1, padding=kernel // 2, groups=groups, bias=bias)
    norms = nn.BatchNorm2d(16, eps=1e-3), nn.BatchNorm2d(8)
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2.0)
        norm.eval()
    for part in (conv, *norms):
        part.requires_grad_(False)
    return conv, *norms


def one_by_one(monkeypatch, *arguments, **options):
    monkeypatch.setattr(module, "_is_frozen_on_cpu", lambda *_: False)
    result = conv_norm(*arguments, **options)
    monkeypatch.undo()
    return result


@pytest.mark.parametrize("activation", ["none", "relu", "gelu-tanh"])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (8, False)])
def test_at_once_equals_one_by_one(monkeypatch, activation, groups, bias):
    conv, norm, _ = layers(groups, bias=bias)
    features = torch.randn(3, 8, 9, 7)

    at_once = conv_norm(features, conv, norm, activation)

    torch.testing.assert_close(at_once, one_by_one(monkeypatch, features, conv, norm, activation), atol=1e-5, rtol=1e-5)
    assert at_once.is_contiguous(memory_format=torch.channels_last)  # so it was computed at once


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_in_front_folds_too(monkeypatch, bias):
    conv, norm, before = layers(kernel=1, bias=bias)
    features = torch.randn(3, 8, 5, 5)

    at_once = conv_norm(features, conv, norm, "gelu-tanh", before)

    expected = one_by_one(monkeypatch, features, conv, norm, "gelu-tanh", before)
    torch.testing.assert_close(at_once, expected, atol=1e-5, rtol=1e-5)


def test_gradients_and_drifting_statistics_are_those_of_the_layers():
    conv, norm, _ = layers()
    conv.requires_grad_(True)
    norm.train()
    mean = norm.running_mean.clone()

    conv_norm(torch.randn(3, 8, 9, 7), conv, norm, "relu").sum().backward()

    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0
    assert not torch.equal(norm.running_mean, mean)
