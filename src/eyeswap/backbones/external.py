"""Encoders from outside the catalog: a function in a Python file of yours, or any timm model.

The file is imported and its function called under a fixed seed, so that fresh weights are the same in every process.
The timm wrapper reads intermediate features before the final norm, by default those of the second-to-last block.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone, listed_blocks
from eyeswap.backbones.fetch import warn_non_commercial
from eyeswap.backbones.name import BackboneName
from eyeswap.errors import CheckpointError, EnvironmentProblem, ShapeError, SpecError
from eyeswap.geometry import DEFAULT_GEOMETRY, Colour, ImageGeometry
from eyeswap.own_code import call, one_line

_TIMEOUT_S = 10.0  # of one question to the Hub


def build(name: BackboneName, tap: str | None, *, pretrained: bool) -> tuple[VisionBackbone, ImageGeometry]:
    """Build an encoder from outside the catalog, see `from_file` and `from_timm`."""
    if name.file is None:
        return from_timm(name.model, tap, pretrained=pretrained)
    return from_file(name.file, name.model, tap)


def from_file(path: Path, function: str, tap: str | None = None) -> tuple[VisionBackbone, ImageGeometry]:
    """Build the encoder that a Python file defines.

    Args:
        path: a Python file.
        function: a function in it that takes no arguments and returns a `VisionBackbone` and an `ImageGeometry`, or a
            `VisionBackbone` alone, which then gets images letterboxed symmetrically to 224 x 224 pixels.
        tap: must be None; the function decides.

    Raises:
        SpecError: if the file or function does not exist, fails, or returns something else.
    """
    if tap is not None:
        raise SpecError(f"{path}: tap cannot be set for an encoder in a file; choose it in {function}()")
    built: Any = call(path, function)
    network, geometry = built if isinstance(built, tuple) and len(built) == 2 else (built, DEFAULT_GEOMETRY)
    if not isinstance(network, VisionBackbone) or not isinstance(geometry, ImageGeometry):
        kinds = f"{type(network).__name__} and {type(geometry).__name__}"
        raise SpecError(f"{path}: {function}() returned {kinds}, expected a VisionBackbone and an ImageGeometry")
    return network, geometry


def from_timm(model: str, tap: str | None, *, pretrained: bool) -> tuple[VisionBackbone, ImageGeometry]:
    """Wrap a timm model, or several side by side.

    Args:
        model: timm's name, with or without a tag; the suffix ``@<side>`` builds it for another image size, and ``+``
            joins models with equal grids, as in ``vit_large_patch14_dinov2@224+vit_so400m_patch14_siglip_224``.
        tap: block or stage, counted from 0 or negative from the end; by default the second-to-last.
        pretrained: whether to load timm's weights.

    Raises:
        EnvironmentProblem: if timm is not installed or cannot be imported.
        SpecError: if timm has no such model, the model has no such features, or the grids of joined models differ.
    """
    parts = [_single_from_timm(part, tap, pretrained) for part in model.split("+")]
    if len(parts) == 1:
        return parts[0]
    networks, geometries = zip(*parts, strict=True)
    grids = {network.token_grid(*geometry.canvas) for network, geometry in parts}
    if len(grids) > 1:
        raise SpecError(
            f"timm:{model}: the joined models have different grids {sorted(grids)}; add @<side> to one of them"
        )
    return JoinedBackbones(networks, geometries), geometries[0]


def _import_timm(model: str) -> Any:
    """Import timm.

    Raises:
        EnvironmentProblem: if it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        remedy = "pip install 'eyeswap[timm]'"
        raise EnvironmentProblem(f"timm:{model} needs timm ({one_line(error)}): {remedy}") from None
    except Exception as error:  # packages that do not fit each other raise anything
        remedy = f"install the torchvision that is built for torch {torch.__version__}; see `eyeswap doctor`"
        raise EnvironmentProblem(f"timm:{model}: timm cannot be imported ({one_line(error)}): {remedy}") from None


def _single_from_timm(model: str, tap: str | None, pretrained: bool) -> tuple[TimmBackbone, ImageGeometry]:
    name, _, side = model.partition("@")
    if side and not side.isdigit():
        raise SpecError(f"timm:{model}: @ must be followed by the side of the image in pixels, as in {name}@224")
    timm = _import_timm(model)
    if pretrained:
        _check_within_reach(timm, name)
    size = {"img_size": int(side)} if side else {}
    try:
        try:  # timm's transformers accept other image sizes only on request, its convolutional networks always
            network = timm.create_model(name, pretrained=pretrained, dynamic_img_size=True, **size)
        except TypeError:
            network = timm.create_model(name, pretrained=pretrained, **size)
        data = timm.data.resolve_model_data_config(network)
    except Exception as error:  # timm raises RuntimeError, ValueError, KeyError, AssertionError, AttributeError
        raise SpecError(f"timm:{model}: {one_line(error)}") from None
    height, width = (int(side), int(side)) if side else data["input_size"][1:]
    try:
        backbone = TimmBackbone(network, int(tap) if tap is not None else -2, (height, width))
    except Exception as error:  # likewise
        raise SpecError(
            f"timm:{model}: gives no features in a grid that the size of the image decides, or has no such tap "
            f"({one_line(error)}); choose another model or tap"
        ) from None
    licence = str(network.pretrained_cfg.get("license") or "")
    if pretrained and re.search(r"\bnc\b|non-?commercial", licence.lower()):
        warn_non_commercial(f"timm:{name}", licence)
    interpolation = data["interpolation"] if data["interpolation"] in ("bicubic", "bilinear") else "bicubic"
    geometry = ImageGeometry(
        strategy="letterbox" if height == width else "corner-letterbox",
        canvas=(height, width),
        interpolation=interpolation,
        mean=data["mean"],
        std=data["std"],
    )
    return backbone, geometry


def check_within_reach(name: BackboneName) -> None:
    """Check that published weights are on this machine or can be downloaded; only those of timm models can be missing.

    Raises:
        EnvironmentProblem: if timm is not installed.
        CheckpointError: if they are neither here nor can the Hub be reached.
    """
    if name.kind == "timm":
        timm = _import_timm(name.model)
        for part in name.model.split("+"):
            _check_within_reach(timm, part.partition("@")[0])


def _check_within_reach(timm: Any, model: str) -> None:
    """Ask the Hub once, as timm would try for a minute."""
    config = timm.models.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        return  # timm says what is wrong with the name, or downloads from elsewhere
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository, _, revision = config.hf_hub_id.partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files):
        return
    try:
        HfApi().model_info(repository, timeout=_TIMEOUT_S)
    except Exception as error:  # the ways in which a network can fail are many
        raise CheckpointError(
            f"timm:{model}: its weights ({repository}) are not in the Hub's cache on this machine, and the Hub cannot "
            f"be asked for them ({one_line(error)}); give a file instead: `weights:` of the arm, or --weights"
        ) from None


class JoinedBackbones(VisionBackbone):
    """Backbones with equal token grids side by side, their tokens concatenated along channels.

    All see the same canvas. Pixels come normalised for the first; for the others they are converted.
    """

    def __init__(self, networks: Sequence[VisionBackbone], geometries: Sequence[ImageGeometry]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.embed_dim = sum(network.embed_dim for network in networks)
        self._colours = [(geometry.mean, geometry.std) for geometry in geometries]

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the concatenated features at the taps, ``[B, h, w, D1 + D2 + ...]``."""
        mean, std = self._colour(self._colours[0], pixel_values)
        features = []
        for network, colours in zip(self._members(), self._colours, strict=True):
            its_mean, its_std = self._colour(colours, pixel_values)
            same = colours == self._colours[0]
            pixels = pixel_values if same else (pixel_values * std + mean - its_mean) / its_std
            features.append(network.feature_map(pixels))
        return torch.cat(features, dim=-1)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns.

        Raises:
            ShapeError: if the networks have different grids for this size, or one of them does not support it.
        """
        first, *others = [network.token_grid(height, width) for network in self._members()]
        if any(grid != first for grid in others):
            raise ShapeError(
                f"image of {height}x{width} pixels: the joined models have different grids {[first, *others]}"
            )
        return first

    def _members(self) -> list[VisionBackbone]:
        return [network for network in self.networks if isinstance(network, VisionBackbone)]

    @staticmethod
    def _colour(colours: tuple[Colour, Colour], like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as ``[3, 1, 1]``."""
        mean, std = (like.new_tensor(values).view(3, 1, 1) for values in colours)
        return mean, std


class TimmBackbone(VisionBackbone):
    """A timm model truncated after one of its blocks or stages; its keys have the prefix ``network.``."""

    def __init__(self, network: Any, tap: int, size: tuple[int, int]) -> None:
        super().__init__()
        all_keys, heads = set(network.state_dict()), network.pretrained_cfg.get("classifier") or ()  # names of layers
        (self.tap,) = network.prune_intermediate_layers([tap], prune_norm=True, prune_head=True)
        self.network = network.eval()
        self.beyond_tap = (
            *(f"network.{key}" for key in all_keys.difference(network.state_dict())),
            *(f"network.{head.partition('.')[0]}." for head in ((heads,) if isinstance(heads, str) else heads)),
        )
        self._shapes_only = (copy.deepcopy(network).to("meta"),)  # in a tuple, so that torch does not register it
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        *_, self.embed_dim = self._features(self._shapes_only[0], torch.zeros(1, 3, *size, device="meta")).shape

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``, without prefix tokens or final norm."""
        return self._features(self.network, pixel_values)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns that the network itself gives; found once per size, on the meta device.

        Raises:
            ShapeError: if the network does not support this size.
        """
        if (height, width) not in self._grids:
            try:
                features = self._features(self._shapes_only[0], torch.zeros(1, 3, height, width, device="meta"))
            except Exception as error:  # whatever the network raises
                raise ShapeError(f"image of {height}x{width} pixels: {one_line(error)}") from None
            self._grids[height, width] = (features.shape[1], features.shape[2])
        return self._grids[height, width]

    def blocks_in_order(self) -> list[nn.Module]:
        """Return timm's blocks in the order in which they run."""
        return listed_blocks(self.network)

    def _features(self, network: Any, pixel_values: Tensor) -> Tensor:
        (features,) = network.forward_intermediates(
            pixel_values, indices=[self.tap], norm=False, output_fmt="NCHW", intermediates_only=True
        )
        result: Tensor = features.permute(0, 2, 3, 1)
        return result
