"""Does a connector of one's own keep what a study needs of it? One finding a promise, as for encoders."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from eyeswap.backbones.conformance import MOST_BATCH_DIFFERENCE, Finding
from eyeswap.connector_name import ConnectorName, Grid
from eyeswap.own_code import OwnFunction, one_line
from eyeswap.vlm.connector import Connector, build_connector

_IMAGES = 3


def check_connector(kind: str, vision_width: int, llm_width: int, grid: Grid) -> Iterator[Finding]:
    """Check a connector, one finding at a time.

    Args:
        kind: its name; ``file.py:function`` for one of your own.
        vision_width: width of a visual token.
        llm_width: width of the LLM.
        grid: rows and columns of visual tokens.

    Raises:
        SpecError: if it cannot be built at all; the message says why.
    """
    connector = build_connector(kind, vision_width, llm_width, seed=0, grid=grid)
    shape = _IMAGES, math.prod(grid), vision_width
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    parameters = sum(parameter.numel() for parameter in connector.parameters())
    yield _tokens(connector, tokens, grid, llm_width, parameters)
    yield _gradients(connector, tokens)
    yield _seeds(connector, kind, llm_width, grid)
    yield _batch(connector, tokens)
    yield _bf16(connector, tokens)
    yield _saved(connector, kind, llm_width, grid, tokens)


def _tokens(connector: Connector, tokens: Tensor, grid: Grid, llm_width: int, parameters: int) -> Finding:
    seen, expected = connector(tokens), (len(tokens), connector.tokens_of(grid), llm_width)
    if tuple(seen.shape) != expected or not bool(seen.isfinite().all()):
        found = f"{list(seen.shape)} of {list(tokens.shape)}, finite: {bool(seen.isfinite().all())}"
        return Finding("tokens", "failed", found, f"return finite {list(expected)}, whatever the tokens are")
    size = f"{grid[0]}x{grid[1]} tokens of width {tokens.shape[2]}"
    return Finding("tokens", "ok", f"{expected[1]} tokens of width {llm_width} from {size}; {parameters:,} parameters")


def _gradients(connector: Connector, tokens: Tensor) -> Finding:
    connector.zero_grad()
    connector(tokens).square().mean().backward()
    silent = [
        name
        for name, weight in connector.named_parameters()
        if weight.requires_grad and (weight.grad is None or not bool(weight.grad.isfinite().all()))
    ]
    connector.zero_grad()
    if silent:
        return Finding("gradient", "failed", f"{silent[0]} gets none, or no number", "use every parameter in forward")
    return Finding("gradient", "ok", "every parameter gets a finite gradient")


def _seeds(connector: Connector, kind: str, llm_width: int, grid: Grid) -> Finding:
    again = build_connector(kind, connector.vision_width, llm_width, seed=0, grid=grid).state_dict()
    if any(not value.equal(again[key]) for key, value in connector.state_dict().items()):
        remedy = "draw from torch alone, whose seed is set"
        return Finding("seed", "failed", "built twice with one seed, it starts with other weights", remedy)
    return Finding("seed", "ok", "equal seeds give equal weights")


@torch.no_grad()
def _batch(connector: Connector, tokens: Tensor) -> Finding:
    connector.eval()
    whole, alone = connector(tokens)[-1:], connector(tokens[-1:])
    difference = float((whole - alone).norm() / whole.norm().clamp_min(1e-12))
    found = f"alone and in a batch of {len(tokens)}: relative difference {difference:.1e}"
    if difference <= MOST_BATCH_DIFFERENCE:
        return Finding("batch", "ok", found)
    return Finding("batch", "failed", found, "look for statistics over the batch, or a reshape that mixes images")


@torch.no_grad()
def _bf16(connector: Connector, tokens: Tensor) -> Finding:
    plain = connector(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        half = connector(tokens).float()
    difference = float((half - plain).norm() / plain.norm().clamp_min(1e-12))
    if not math.isfinite(difference):
        return Finding("bf16", "failed", "in bf16 it gives no numbers", "look for overflow, or a division by zero")
    return Finding("bf16", "ok", f"in bf16, as training has it, relative difference {difference:.1e}")


@torch.no_grad()
def _saved(connector: Connector, kind: str, llm_width: int, grid: Grid, tokens: Tensor) -> Finding:
    """Take weights and code to another folder, as a saved model does, and compare what it makes there."""
    own = ConnectorName.parse(kind).own
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = kind
        if own is not None:
            shutil.copyfile(own.file, Path(folder) / own.file.name)
            elsewhere = f"{Path(folder) / own.file.name}:{own.name}"
        beside = _modules_beside(own)
        try:
            loaded = build_connector(elsewhere, connector.vision_width, llm_width, seed=1, grid=grid).eval()
            loaded.load_state_dict(connector.state_dict())
        except Exception as error:  # whatever the user's code raises
            found = f"cannot be loaded elsewhere: {one_line(error)}"
            return Finding("saved", "failed", found, "keep all of its code in one file")
        finally:
            sys.modules.update(beside)
    if not torch.equal(loaded(tokens), connector(tokens)):
        remedy = "register every tensor that is drawn as a parameter or buffer"
        return Finding("saved", "failed", "saved and loaded, it makes other tokens", remedy)
    return Finding("saved", "ok", "saved with its code and loaded elsewhere, it makes the same tokens, bit for bit")


def _modules_beside(own: OwnFunction | None) -> dict[str, ModuleType]:
    """Forget modules that were imported from beside a file, and return them; elsewhere they would not be found."""
    if own is None:
        return {}
    folder = own.file.resolve().parent
    beside = {
        name: module
        for name, module in sys.modules.items()
        if (file := getattr(module, "__file__", None)) and Path(file).parent == folder
    }
    for name in beside:
        del sys.modules[name]
    return beside
