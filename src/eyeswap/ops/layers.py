"""Layers that several backbone families share: stochastic depth, and initialisation from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop a residual branch for whole samples during training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``[B, ...]`` with samples zeroed at the given rate and the others scaled to keep the mean."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep
        return x * mask.to(x.dtype) / keep


def drop_path_rates(maximum: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the rate of each block of each stage, rising linearly from 0 to ``maximum`` over all blocks."""
    rates = torch.linspace(0, maximum, sum(depths), device="cpu").tolist()
    return [[rates.pop(0) for _ in range(depth)] for depth in depths]


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer with a truncated normal of std 0.02 and zero bias; leave other modules alone."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_step_bias(bias: Tensor, smallest: float = 1e-3, largest: float = 0.1) -> None:
    """Draw biases of any shape whose softplus is log-uniform in the given range (arXiv 2312.00752, section 3.6)."""
    steps = torch.exp(torch.empty_like(bias).uniform_(math.log(smallest), math.log(largest)))
    bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus


@torch.no_grad()
def init_state_matrix(A_log: Tensor) -> None:
    """Set ``A_log [..., S]`` to ``log(1), ..., log(S)``: the S4D-real initialisation, A = -1, ..., -S."""
    A_log.copy_(torch.log(torch.arange(1, A_log.shape[-1] + 1, dtype=A_log.dtype)).expand_as(A_log))
