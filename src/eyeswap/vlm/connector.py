"""Connectors: small networks that map visual tokens to the LLM's embedding space.

An MLP maps each token separately. Its widths and layers are the published ones: linear layers with bias and exact
GELUs. Steps before it (`eyeswap.vlm.connector_steps`) change how many tokens the LLM sees.

The initial weights are drawn from the run's seed by a separate generator, so that they depend only on the shapes and
leave other random streams untouched. The published code seeds with the token width instead, whatever its ``--seed``;
the wiring ``as-published`` reproduces that to the bit.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyeswap.connector_name import ConnectorName, Grid, Resampler
from eyeswap.errors import SpecError
from eyeswap.own_code import call, one_line
from eyeswap.vlm.connector_steps import Resample, build_step


class Connector(nn.Sequential):
    """A connector ``[I, N, vision_width] -> [I, M, llm_width]``.

    Attributes:
        kind: its name, see `eyeswap.connector_name`.
        vision_width: width of a visual token.
        grid: rows and columns of tokens that it was built for; None if it maps each token by itself.
        num_tokens: how many the LLM sees of an image; None if as many as there are.
        file: the file of a connector of one's own; None otherwise.
    """

    def __init__(
        self,
        kind: str,
        layers: list[nn.Module],
        vision_width: int,
        grid: Grid | None = None,
        num_tokens: int | None = None,
        file: Path | None = None,
    ) -> None:
        super().__init__(*layers)
        self.file = file
        self.kind, self.vision_width, self.grid, self.num_tokens = kind, vision_width, grid, num_tokens

    def tokens_of(self, grid: Grid) -> int:
        """Return how many tokens the LLM sees of a grid of ``(rows, columns)``.

        Raises:
            SpecError: if it was built for another grid.
        """
        if self.grid not in (None, grid):
            raise SpecError(f"connector {self.kind}: built for a grid of {self.grid} tokens, the backbone gives {grid}")
        return math.prod(grid) if self.num_tokens is None else self.num_tokens

    def seen_grid(self, grid: Grid) -> Grid | None:
        """Return the grid of the tokens that the LLM sees; None if they have no place in the image."""
        name = ConnectorName.parse(self.kind)
        placed = name.own is None and not any(isinstance(step, Resampler) for step in name.steps)
        return name.grid(grid) if placed else None

    def blank(self) -> Tensor:
        """Return the tokens of an image that is not there, zeros ``[1, N, vision_width]``."""
        like: Any = next(self.parameters())
        blank: Tensor = like.new_zeros(1, math.prod(self.grid or (1, 1)), self.vision_width)
        return blank


def build_connector(
    kind: str, vision_width: int, llm_width: int, seed: int, wiring: str = "controlled", grid: Grid | None = None
) -> Connector:
    """Build a connector ``[I, N, vision_width] -> [I, M, llm_width]`` with its initial weights.

    Args:
        kind: ``linear`` (d->D), ``gelu-mlp`` (d->D, GELU, D->D) or ``fused-gelu-mlp`` (d->4d, GELU, 4d->D, GELU, D->D),
            with steps in front, see `eyeswap.connector_name`; or ``file.py:function``, see `own_connector`.
        vision_width: width ``d`` of a visual token.
        llm_width: width ``D`` of the LLM.
        seed: seed of the initial weights; without effect as published.
        wiring: ``controlled``, or ``as-published`` for the published draw, whose seed is ``vision_width``.
        grid: rows and columns of visual tokens; needed by steps in front of the MLP.

    Raises:
        SpecError: if there is no such kind, its steps lack the grid, or code of one's own fails.
    """
    if ConnectorName.parse(kind).own is not None:
        return own_connector(kind, vision_width, llm_width, seed if wiring == "controlled" else vision_width, grid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(vision_width)
        connector = connector_layers(kind, vision_width, llm_width, grid)
    if wiring == "controlled":
        _initialise(connector, torch.Generator().manual_seed(seed))
    return connector


def connector_layers(kind: str, vision_width: int, llm_width: int, grid: Grid | None = None) -> Connector:
    """Build the layers of a connector ``[I, N, vision_width] -> [I, M, llm_width]``, to be filled by the caller.

    Raises:
        SpecError: if there is no such kind, or its steps lack the grid.
    """
    name = ConnectorName.parse(kind)
    if name.steps and grid is None:
        raise SpecError(f"connector {kind}: needs the grid of visual tokens, which varies here; choose a letterbox")
    layers: list[nn.Module] = []
    width, place = vision_width, grid or (1, 1)
    for step in name.steps:
        layers.append(build_step(step, place, width))
        place, width = step.grid(place), step.width(width)
    for number, (fan_in, fan_out) in enumerate(pairwise(name.mlp_widths(vision_width, llm_width))):
        layers += [nn.GELU()] if number else []
        layers.append(nn.Linear(fan_in, fan_out))
    if not name.steps or grid is None:
        return Connector(kind, layers, vision_width)
    return Connector(kind, layers, vision_width, grid, name.num_tokens(grid))


def own_connector(kind: str, vision_width: int, llm_width: int, seed: int, grid: Grid | None) -> Connector:
    """Build a connector of one's own ``[I, N, vision_width] -> [I, M, llm_width]``, and try it on an empty image.

    Args:
        kind: ``file.py:function``; the function takes the two widths and the grid, and returns a module.
        vision_width: width of a visual token.
        llm_width: width of the LLM.
        seed: of whatever the function draws from torch.
        grid: rows and columns of visual tokens.

    Raises:
        SpecError: if the function fails, or what it returns is no such module.
    """
    own = ConnectorName.parse(kind).own
    if own is None or grid is None:
        raise SpecError(f"connector {kind}: needs the grid of visual tokens, which varies here; choose a letterbox")
    with torch.device("cpu"):
        module = call(own.file, own.name, vision_width, llm_width, grid, seed=seed)
        if not isinstance(module, nn.Module):
            raise SpecError(f"{own.file}: {own.name}() returned {type(module).__name__}, expected a torch.nn.Module")
        blank = torch.zeros(2, math.prod(grid), vision_width)
        try:
            with torch.no_grad():
                shape = tuple(module.eval()(blank).shape)
        except Exception as error:  # whatever the user's code raises
            raise SpecError(f"{own.file}: {list(blank.shape)} tokens: {one_line(error)}") from error
    if len(shape) != 3 or shape[0] != 2 or shape[1] < 1 or shape[2] != llm_width:
        raise SpecError(f"{own.file}: gave {list(shape)} of {list(blank.shape)} tokens, expected [2, M, {llm_width}]")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise SpecError(f"{own.file}: {own.name}() returned a module without a parameter to train")
    return Connector(own.identity, [module.train()], vision_width, grid, shape[1], own.file)


@torch.no_grad()
def _initialise(connector: Connector, generator: torch.Generator) -> None:
    """Draw weights as PyTorch does by default, uniform within 1/sqrt(fan_in); the queries of a resampler are normal."""
    for layer in connector.modules():
        if isinstance(layer, Resample):
            layer.queries.copy_(torch.randn(layer.queries.shape, generator=generator))
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            layer.weight.copy_(_uniform(layer.weight, bound, generator))
            if layer.bias is not None:
                layer.bias.copy_(_uniform(layer.bias, bound, generator))


def _uniform(like: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator) * 2 - 1) * bound
