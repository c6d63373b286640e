"""What a connector is called: steps that change the visual tokens, and behind them an MLP; or a function of one's own.

``pool-2x2+gelu-mlp`` averages 2x2 neighbouring tokens and maps each average into the LLM's space. `ConnectorName.parse`
is the only reader of that text; what such a connector makes of a grid, and what it costs, follows from the name by
arithmetic, without building anything. `eyeswap.vlm.connector` builds it. ``my_connector.py:build`` is a function in a
file of the user's, of which nothing is known before it is built.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from eyeswap.errors import SpecError, nearest
from eyeswap.own_code import OwnFunction

Grid = tuple[int, int]  # rows and columns of tokens

MLPS = ("linear", "gelu-mlp", "fused-gelu-mlp")
STEPS = ("pool-2x2", "pixel-shuffle-2", "resampler-64", "conv")  # an example of each kind


@dataclass(frozen=True)
class Step:
    """One step in front of the MLP; a subclass says what it does to the grid, the width, and what it costs."""

    def grid(self, grid: Grid) -> Grid:
        """Return rows and columns of the tokens behind the step."""
        return grid

    def width(self, width: int) -> int:
        """Return the width of a token behind the step."""
        return width

    def parameters(self, width: int) -> int:
        """Return how many parameters it has for tokens of a width."""
        return 0

    def multiplied(self, grid: Grid, width: int) -> int:
        """Return the multiplications of one image."""
        return 0


@dataclass(frozen=True)
class Pool(Step):
    """Average over windows of ``rows x columns`` tokens; those at the edge average what they hold."""

    rows: int
    columns: int

    def grid(self, grid: Grid) -> Grid:
        """Return the number of windows down and across."""
        return -(-grid[0] // self.rows), -(-grid[1] // self.columns)


@dataclass(frozen=True)
class PixelShuffle(Step):
    """Put ``factor x factor`` neighbouring tokens side by side into one; beyond the edge there are zeros."""

    factor: int

    def grid(self, grid: Grid) -> Grid:
        """Return the number of squares down and across."""
        return -(-grid[0] // self.factor), -(-grid[1] // self.factor)

    def width(self, width: int) -> int:
        """Return the width of all tokens of a square together."""
        return self.factor**2 * width


@dataclass(frozen=True)
class Resampler(Step):
    """Let learned queries attend to all tokens; what comes out has no place in the image."""

    queries: int

    def grid(self, grid: Grid) -> Grid:
        """Return the queries as one row."""
        return 1, self.queries

    def parameters(self, width: int) -> int:
        """Return those of the queries, one norm and four square matrices."""
        return self.queries * width + 2 * width + 4 * (width + 1) * width

    def multiplied(self, grid: Grid, width: int) -> int:
        """Return the multiplications of keys and values, queries and output, scores and averages."""
        tokens = grid[0] * grid[1]
        return 2 * width * (width * tokens + width * self.queries + self.queries * tokens)


@dataclass(frozen=True)
class Convolution(Step):
    """Add to every token a depthwise 3x3 convolution of its neighbourhood."""

    def parameters(self, width: int) -> int:
        """Return nine weights and a bias a channel."""
        return 10 * width

    def multiplied(self, grid: Grid, width: int) -> int:
        """Return nine multiplications a token and channel."""
        return 9 * width * grid[0] * grid[1]


@dataclass(frozen=True)
class ConnectorName:
    """A parsed name.

    Attributes:
        text: as written.
        steps: what changes the tokens, in order.
        mlp: what maps each of them into the LLM's space; empty for a connector of one's own.
        own: the function that builds a connector of one's own; None otherwise.
    """

    text: str
    steps: tuple[Step, ...]
    mlp: str
    own: OwnFunction | None = None

    @classmethod
    @functools.cache
    def parse(cls, text: str, folder: Path = Path()) -> ConnectorName:
        """Read a name.

        Args:
            text: steps and MLP, ``file.py`` or ``file.py:function``.
            folder: what the path of a file is relative to.

        Raises:
            SpecError: if there is no such connector; with the nearest one. Whether a file exists is not looked at.
        """
        own = OwnFunction.parse(text, folder)
        if own is not None:
            return cls(str(own), (), "", own)
        *steps, mlp = text.split("+")
        if mlp not in MLPS:
            hint = f"behind the last + stands one of {', '.join(MLPS)}" if _step(mlp) else nearest(mlp, MLPS)
            raise SpecError(f'connector: unknown value "{text}". {hint}')
        parsed = []
        for step in steps:
            known = _step(step)
            if known is None:
                raise SpecError(
                    f"connector: unknown step {step!r} of {text!r}; known are pool-KxK, pixel-shuffle-K, resampler-N "
                    "and conv, with whole numbers from 1"
                )
            parsed.append(known)
        if any(isinstance(step, Resampler) for step in parsed[:-1]):
            raise SpecError(
                f"connector: {text!r}: nothing but the MLP can follow a resampler, whose tokens have no grid"
            )
        return cls(text, tuple(parsed), mlp)

    @property
    def identity(self) -> str:
        """The name without the folder of an own connector's file."""
        return self.text if self.own is None else self.own.identity

    @property
    def changes_tokens(self) -> str:
        """What decides how many tokens the LLM sees: the steps, or the function of one's own; empty for an MLP."""
        return self.identity if self.own else self.text.rpartition("+")[0]

    def grid(self, grid: Grid) -> Grid:
        """Return rows and columns of the tokens that the LLM sees of a grid; a resampler's are one row."""
        for step in self.steps:
            grid = step.grid(grid)
        return grid

    def num_tokens(self, grid: Grid) -> int:
        """Return how many tokens the LLM sees of a grid."""
        return math.prod(self.grid(grid))

    def mlp_widths(self, vision_width: int, llm_width: int) -> tuple[int, ...]:
        """Return the widths between the linear layers of the MLP, from the first input to the last output."""
        for step in self.steps:
            vision_width = step.width(vision_width)
        between = {"linear": (), "gelu-mlp": (llm_width,), "fused-gelu-mlp": (4 * vision_width, llm_width)}
        return (vision_width, *between[self.mlp], llm_width)

    def parameters(self, vision_width: int, llm_width: int) -> int:
        """Return the number of parameters, weights and biases."""
        widths = self.mlp_widths(vision_width, llm_width)
        total = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))
        for step in self.steps:
            total += step.parameters(vision_width)
            vision_width = step.width(vision_width)
        return total

    def multiplied(self, grid: Grid, vision_width: int, llm_width: int) -> int:
        """Return the multiplications of one image: the MLP's parameters for every token, and those of the steps."""
        widths = self.mlp_widths(vision_width, llm_width)
        total = self.num_tokens(grid) * sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))
        for step in self.steps:
            total += step.multiplied(grid, vision_width)
            grid, vision_width = step.grid(grid), step.width(vision_width)
        return total


def _step(text: str) -> Step | None:
    """Read one step; None if there is no such."""
    if text == "conv":
        return Convolution()
    if match := re.fullmatch(r"pool-([1-9]\d{0,3})x([1-9]\d{0,3})", text):
        return Pool(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"pixel-shuffle-([1-9]\d{0,3})", text):
        return PixelShuffle(int(match[1]))
    if match := re.fullmatch(r"resampler-([1-9]\d{0,4})", text):
        return Resampler(int(match[1]))
    return None
