"""Encoders from outside of the catalog: a function in a file of one's own, or any timm model.

A file is imported and its function called, with a fixed seed, so that fresh weights are the same in every
process. The timm wrapper reads intermediate features before the final norm, by default of the
second-to-last block.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import EnvironmentProblem, EyeswapError, SpecError
from eyeswap.geometry import ImageGeometry

DEFAULT_GEOMETRY = ImageGeometry(canvas=(224, 224))


def from_file(name: str, tap: str | None = None) -> tuple[VisionBackbone, ImageGeometry]:
    """Build an encoder of one's own.

    Args:
        name: ``path/to/file.py:function``. The function takes nothing and returns a `VisionBackbone` and an
            `ImageGeometry`, or a `VisionBackbone` alone, which then sees a symmetric letterbox of 224 pixels.
        tap: must be None; the function decides.

    Raises:
        SpecError: if file or function does not exist, fails, or returns something else.
    """
    path, _, function = name.rpartition(":")
    if tap is not None:
        raise SpecError(f"{name}: tap has no meaning for an encoder of your own; decide it in {function}()")
    if not Path(path).is_file():
        raise SpecError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise SpecError(f"{path}: import failed: {_one_line(error)}") from error
    build = getattr(module, function, None)
    if not callable(build):
        raise SpecError(f"{path}: has no function {function}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            built: Any = build()
        except EyeswapError:
            raise
        except Exception as error:
            raise SpecError(f"{path}: {function}() failed: {_one_line(error)}") from error
    network, geometry = built if isinstance(built, tuple) and len(built) == 2 else (built, DEFAULT_GEOMETRY)
    if not isinstance(network, VisionBackbone) or not isinstance(geometry, ImageGeometry):
        kinds = f"{type(network).__name__} and {type(geometry).__name__}"
        raise SpecError(f"{path}: {function}() returned {kinds}, expected a VisionBackbone and an ImageGeometry")
    return network, geometry


def from_timm(model: str, tap: str | None, *, pretrained: bool) -> tuple[VisionBackbone, ImageGeometry]:
    """Wrap a timm model.

    Args:
        model: timm's name, with or without a tag.
        tap: block or stage counted from 0, negative from the end; by default the second-to-last.
        pretrained: whether to get timm's weights.

    Raises:
        EnvironmentProblem: if timm is not installed or cannot be imported.
        SpecError: if timm has no such model, or it has no features of that kind.
    """
    try:
        import timm
    except ImportError as error:
        raise EnvironmentProblem(f"timm:{model} needs timm ({_one_line(error)}): pip install 'eyeswap[timm]'") from None
    try:
        network = timm.create_model(model, pretrained=pretrained, num_classes=0)
        data = timm.data.resolve_model_data_config(network)
        backbone = TimmBackbone(network, int(tap) if tap is not None else -2, data["input_size"][1:])
    except Exception as error:  # timm raises RuntimeError, ValueError, KeyError, AssertionError, AttributeError
        raise SpecError(f"timm:{model}: {_one_line(error)}") from None
    interpolation = data["interpolation"] if data["interpolation"] in ("bicubic", "bilinear") else "bicubic"
    height, width = data["input_size"][1:]
    geometry = ImageGeometry(
        strategy="letterbox" if height == width else "corner-letterbox",
        canvas=(height, width),
        interpolation=interpolation,
        mean=data["mean"],
        std=data["std"],
    )
    return backbone, geometry


class TimmBackbone(VisionBackbone):
    """A timm model cut after one of its blocks or stages; its keys carry the prefix ``network.``."""

    def __init__(self, network: Any, tap: int, size: tuple[int, int]) -> None:
        super().__init__()
        whole = set(network.state_dict())
        (self.tap,) = network.prune_intermediate_layers([tap], prune_norm=True, prune_head=True)
        self.network, self.size = network.eval(), tuple(size)
        self.beyond_tap = (
            *(f"network.{key}" for key in whole.difference(network.state_dict())),
            "network.head.",
        )
        with torch.no_grad():
            features = self.feature_map(torch.zeros(1, 3, *size))
        self.grid, self.embed_dim = (features.shape[1], features.shape[2]), features.shape[3]

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``, without prefix tokens and final norm."""
        (features,) = self.network.forward_intermediates(
            pixel_values, indices=[self.tap], norm=False, output_fmt="NCHW", intermediates_only=True
        )
        result: Tensor = features.permute(0, 2, 3, 1)
        return result

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns: those of the model's own size, scaled."""
        rows, columns = self.grid
        return -(-height * rows // self.size[0]), -(-width * columns // self.size[1])


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
