"""Connectors: small networks that map visual tokens to the LLM's embedding space.

Widths and layers are the published ones: linear layers with bias and exact GELUs. The initial weights are drawn from
the run's seed by a separate generator, so that they depend only on the shapes and leave other random streams untouched.
The published code seeds with the token width instead, whatever its ``--seed``; the wiring ``as-published`` reproduces
that to the bit.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eyeswap.errors import SpecError, nearest

ConnectorKind = Literal["linear", "gelu-mlp", "fused-gelu-mlp"]


def build_connector(
    kind: str, vision_width: int, llm_width: int, seed: int, wiring: str = "controlled"
) -> nn.Sequential:
    """Build a connector ``[B, N, vision_width] -> [B, N, llm_width]`` with its initial weights.

    Args:
        kind: ``linear`` (d->D), ``gelu-mlp`` (d->D, GELU, D->D) or ``fused-gelu-mlp`` (d->4d, GELU, 4d->D, GELU, D->D).
        vision_width: width ``d`` of a visual token.
        llm_width: width ``D`` of the LLM.
        seed: seed of the initial weights; without effect as published.
        wiring: ``controlled``, or ``as-published`` for the published draw, whose seed is ``vision_width``.

    Raises:
        SpecError: if there is no such kind.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(vision_width)
        connector = connector_layers(kind, vision_width, llm_width)
    if wiring == "controlled":
        _initialise(connector, torch.Generator().manual_seed(seed))
    return connector


def connector_layers(kind: str, vision_width: int, llm_width: int) -> nn.Sequential:
    """Build the layers of a connector ``[B, N, vision_width] -> [B, N, llm_width]``, to be filled by the caller.

    Raises:
        SpecError: if there is no such kind.
    """
    d, D = vision_width, llm_width
    widths = {"linear": (d, D), "gelu-mlp": (d, D, D), "fused-gelu-mlp": (d, 4 * d, D, D)}
    if kind not in widths:
        raise SpecError(f"connector: unknown kind {kind!r}. {nearest(kind, get_args(ConnectorKind))}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[kind]):
        layers += [nn.GELU()] if layers else []
        layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


def connector_kind(connector: nn.Sequential) -> ConnectorKind:
    """Return which kind a connector is, from its number of linear layers."""
    kinds = get_args(ConnectorKind)
    kind: ConnectorKind = kinds[sum(isinstance(layer, nn.Linear) for layer in connector) - 1]
    return kind


@torch.no_grad()
def _initialise(connector: nn.Sequential, generator: torch.Generator) -> None:
    """Draw the weights as `nn.Linear` does by default: uniform within 1/sqrt(fan_in)."""
    for layer in connector:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.copy_(_uniform(layer.weight, bound, generator))
            layer.bias.copy_(_uniform(layer.bias, bound, generator))


def _uniform(like: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator) * 2 - 1) * bound
