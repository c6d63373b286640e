"""The steps of a connector that change visual tokens before the MLP sees them; each is built for one grid.

Tokens lie in raster order. A window that reaches beyond the last row or column holds what there is, so that every grid
has an exact result.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.connector_name import Convolution, Grid, PixelShuffle, Pool, Resampler, Step
from eyeswap.errors import ShapeError

_HEAD_WIDTH = 64
_SLOWEST = 10_000.0  # wave length of the slowest position, in units of 2 pi tokens (arXiv 1706.03762, section 3.5)


def _check_count(tokens: Tensor, grid: Grid) -> None:
    rows, columns = grid
    if tokens.shape[-2] != rows * columns:
        raise ShapeError(f"connector: built for {rows}x{columns} visual tokens, got {tokens.shape[-2]}")


class _OnGrid(nn.Module):
    """A layer that sees its tokens as a map."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens ``[I, M, D]`` behind the step, of tokens ``[I, N, d]``.

        Raises:
            ShapeError: if the grid does not have so many.
        """
        _check_count(tokens, self.grid)
        as_map = tokens.unflatten(-2, self.grid).movedim(-1, -3)  # [I, d, h, w]
        return self.change(as_map).flatten(-2).transpose(-1, -2)

    def change(self, features: Tensor) -> Tensor:
        """Return the map ``[I, D, h', w']`` behind the step, of a map ``[I, d, h, w]``."""
        raise NotImplementedError


class AveragePool(_OnGrid):
    """Average windows of tokens, see `eyeswap.connector_name.Pool`."""

    def __init__(self, step: Any, grid: Grid, width: int) -> None:
        super().__init__(grid)
        self._window = (step.rows, step.columns)

    def change(self, features: Tensor) -> Tensor:
        """Return one token a window, ``[I, d, h', w']``."""
        return F.avg_pool2d(features, self._window, ceil_mode=True, count_include_pad=False)


class SpaceToDepth(_OnGrid):
    """Put the tokens of a square side by side, as in InternVL 1.5 (arXiv 2404.16821, section 3.1)."""

    def __init__(self, step: Any, grid: Grid, width: int) -> None:
        super().__init__(grid)
        self._factor = step.factor

    def change(self, features: Tensor) -> Tensor:
        """Return one token a square, ``[I, factor^2 d, h', w']``."""
        below, beside = (-side % self._factor for side in self.grid)
        return F.pixel_unshuffle(F.pad(features, (0, beside, 0, below)), self._factor)


class DepthwiseConvolution(_OnGrid):
    """Add a depthwise 3x3 convolution, a position encoding that keeps every token where it is.

    It is that of CPVT (arXiv 2102.10882, section 4.2); behind a pool it makes the projector of MobileVLM V2 (arXiv
    2402.03766, section 3.2), whose pointwise layers are the MLP's.
    """

    def __init__(self, step: Any, grid: Grid, width: int) -> None:
        super().__init__(grid)
        self.convolution = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def change(self, features: Tensor) -> Tensor:
        """Return the map with what the neighbourhood adds, ``[I, d, h, w]``."""
        result: Tensor = features + self.convolution(features)
        return result


class Resample(nn.Module):
    """Let learned queries attend to the tokens once, as in Qwen-VL (arXiv 2308.12966, section 2.1).

    Keys carry the position of their token in rows and columns (sine and cosine); values do not.
    """

    def __init__(self, step: Any, grid: Grid, width: int) -> None:
        super().__init__()
        self.grid = grid
        self.queries = nn.Parameter(torch.randn(step.queries, width))  # [M, d]
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self._heads = max(1, width // _HEAD_WIDTH)
        while width % self._heads:
            self._heads -= 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what the queries read, ``[I, M, d]``, of tokens ``[I, N, d]``.

        Raises:
            ShapeError: if the grid does not have so many.
        """
        _check_count(tokens, self.grid)
        normed = self.norm(tokens)
        keys = self.key(normed + positions(self.grid, tokens.shape[-1], normed))
        queries = self.query(self.queries).expand(*tokens.shape[:-2], -1, -1)
        query, key, value = (self._in_heads(part) for part in (queries, keys, self.value(normed)))
        read = F.scaled_dot_product_attention(query, key, value)  # [I, heads, M, d / heads]
        result: Tensor = self.output(read.transpose(-3, -2).flatten(-2))
        return result

    def _in_heads(self, tokens: Tensor) -> Tensor:
        heads: Tensor = tokens.unflatten(-1, (self._heads, -1)).transpose(-3, -2)
        return heads


def positions(grid: Grid, width: int, like: Tensor) -> Tensor:
    """Return where each token lies, ``[N, width]``: sines and cosines, half of the channels for rows, half for columns.

    Args:
        grid: rows and columns.
        width: channels.
        like: a tensor of the type and device that are wanted, of any shape.
    """
    waves = math.ceil(width / 4)
    speed = _SLOWEST ** (-torch.arange(waves, device=like.device) / waves)
    rows, columns = (torch.arange(side, device=like.device)[:, None] * speed for side in grid)  # [h, waves], [w, waves]
    down = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, grid[1], -1)
    across = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(grid[0], -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)[:, :width].to(like.dtype)


_LAYERS: dict[type[Step], type[AveragePool | SpaceToDepth | DepthwiseConvolution | Resample]] = {
    Pool: AveragePool,
    PixelShuffle: SpaceToDepth,
    Convolution: DepthwiseConvolution,
    Resampler: Resample,
}


def build_step(step: Step, grid: Grid, width: int) -> nn.Module:
    """Build the layer of a step for tokens of a grid and a width."""
    return _LAYERS[type(step)](step, grid, width)
