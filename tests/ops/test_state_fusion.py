"""State fusion on every path, against the sum over neighbours written out."""

import pytest
import torch

from eyeswap.errors import EnvironmentProblem
from eyeswap.ops import _c_scan
from eyeswap.ops.state_fusion import fuse_states

DILATIONS = (1, 3, 5)


def drawn(batch=2, height=4, width=7, channels=20):
    generator = torch.Generator().manual_seed(height * 100 + width)
    states = torch.randn(batch, height, width, channels, generator=generator, dtype=torch.float64)
    return states, [torch.randn(channels, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in DILATIONS]


def restated(states, kernels):
    height, width = states.shape[1:3]
    total = torch.zeros_like(states)
    for kernel, dilation in zip(kernels, DILATIONS, strict=True):
        for i in range(3):
            for j in range(3):
                rows = (torch.arange(height) + (i - 1) * dilation).clamp(0, height - 1)
                columns = (torch.arange(width) + (j - 1) * dilation).clamp(0, width - 1)
                total += states[:, rows][:, :, columns] * kernel[:, 0, i, j]
    return total


def error(got, want):
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("size", [(4, 7), (1, 1), (1, 9), (12, 3)])
def test_convolutions_are_the_sum_over_neighbours(size):
    states, kernels = drawn(2, *size)
    assert error(fuse_states(states, kernels, DILATIONS), restated(states, kernels)) < 1e-14


@pytest.mark.skipif(bool(_c_scan.why_missing()), reason=f"no C core: {_c_scan.why_missing()}")
@pytest.mark.parametrize("size", [(4, 7), (1, 1), (1, 9), (12, 3)])
@pytest.mark.parametrize("channels", [1, 20, 64])
def test_the_c_core_agrees(size, channels):
    states, kernels = drawn(3, *size, channels)
    got = fuse_states(states.float(), [kernel.float() for kernel in kernels], DILATIONS, path="c")
    assert error(got, restated(states, kernels)) < 1e-6
    assert fuse_states(states.float()[:0], [kernel.float() for kernel in kernels], DILATIONS, path="c").shape[0] == 0


def test_what_is_trained_goes_to_the_convolutions():
    states, kernels = drawn()
    kernels = [kernel.float().requires_grad_() for kernel in kernels]
    fuse_states(states.float(), kernels, DILATIONS).sum().backward()
    assert all(kernel.grad is not None for kernel in kernels)
    with pytest.raises(EnvironmentProblem, match="no backward"):
        fuse_states(states.float(), kernels, DILATIONS, path="c")
