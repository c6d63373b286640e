"""The optimiser of the recipe: AdamW in two groups, linear warm-up, cosine decay to zero."""

from __future__ import annotations

import math

import torch
from torch import nn


def build_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with decay on matrices only; biases, norms and other vectors have none (published recipe).

    The learning rate is set before every step by `learning_rate`. All moments exist from the start, so that a
    checkpoint has the same content at every step.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    on_gpu = any(parameter.is_cuda for parameter in [*decayed, *plain])
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=on_gpu or None)
    for parameter in [*decayed, *plain]:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device if on_gpu else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def learning_rate(step: int, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of a step: up linearly during warm-up, then down a half cosine to zero.

    Args:
        step: step number from 0.
        num_steps: steps of the whole run.
        peak: highest learning rate.
        warmup_fraction: share of the steps that warm up, rounded down.
    """
    warmup = math.floor(warmup_fraction * num_steps)
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
