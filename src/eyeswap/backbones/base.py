"""The contract of every vision backbone: images in, a raster of visual tokens out, frozen for good.

A family module (``vit.py``, ``maxvit.py``, ``vmamba.py``, ...) subclasses `VisionBackbone`, builds only the
layers up to its tap, names its parameters as the official checkpoint does, and implements two methods.
The rest of eyeswap relies on this class alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from eyeswap.errors import ShapeError, SpecError


def keep_precision(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Return a context in which layers compute in the precision of their inputs, even inside autocast."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()  # devices without autocast, such as meta


class VisionBackbone(nn.Module):
    """Map images to visual tokens; subclasses implement ``feature_map`` and ``token_grid``.

    Attributes:
        embed_dim: width ``D`` of a visual token.
        beyond_tap: key prefixes that a complete official checkpoint has and the truncated network does not use.
        may_lack: key suffixes that a checkpoint may lack; such parameters keep their initial values.
        recomputed: key suffixes that a checkpoint may hold and the network ignores, as it computes them itself.
        foreign: substrings of keys that identify a different network of the family, each with its description.
    """

    embed_dim: int
    beyond_tap: tuple[str, ...] = ()
    may_lack: tuple[str, ...] = ()
    recomputed: tuple[str, ...] = ()
    foreign: Mapping[str, str] = MappingProxyType({})
    _frozen: bool = False

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap.

        Args:
            pixel_values: ``[B, 3, H, W]``, already normalised.

        Returns:
            ``[B, h, w, D]``, channels last, where ``(h, w) == self.token_grid(H, W)``.
        """
        raise NotImplementedError

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return ``(h, w)``, the exact number of token rows and columns of an ``H x W`` image."""
        raise NotImplementedError

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the visual tokens.

        A fully frozen backbone computes in its own precision, even inside autocast.

        Args:
            pixel_values: ``[B, 3, H, W]``, already normalised; ``B`` may be 0.

        Returns:
            ``[B, N, D]``, raster order: token ``r*w + c`` is the cell in row ``r``, column ``c`` of the grid.

        Raises:
            ShapeError: if the input is not a batch of images, or the actual grid differs from ``token_grid``.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or not pixel_values.is_floating_point():
            pixels = f"{list(pixel_values.shape)} of {pixel_values.dtype}"
            raise ShapeError(
                f"pixel_values are {pixels}, expected [B, 3, H, W] of floats, as returned by ImageGeometry.place"
            )
        height, width = pixel_values.shape[-2:]
        if not height or not width:
            raise ShapeError(f"image of {height}x{width} pixels is empty")
        rows, columns = self.token_grid(height, width)
        if not len(pixel_values):
            return pixel_values.new_empty(0, rows * columns, self.embed_dim)
        is_trained = any(parameter.requires_grad for parameter in self.parameters())
        with contextlib.nullcontext() if is_trained else keep_precision(pixel_values.device.type):
            features = self.feature_map(pixel_values)  # [B, h, w, D]
        expected = (rows, columns, self.embed_dim)
        if tuple(features.shape[1:]) != expected:
            name, shape = type(self).__name__, tuple(features.shape[1:])
            raise ShapeError(f"{name}.feature_map returned [h, w, D] = {shape}, expected {expected}")
        return features.flatten(1, 2)  # [B, N, D]

    def blocks_in_order(self) -> list[nn.Module]:
        """Return the blocks in the order in which they run; those of all stages where the network has stages.

        A network whose blocks are not in ``blocks``, ``layers``, ``levels`` or ``stages`` overrides this method.
        """
        return listed_blocks(self)

    def unfreeze(self, last: int) -> list[nn.Module]:
        """Let the last blocks of a frozen backbone learn, in eval mode like all of it; return them.

        Args:
            last: how many, counted back from the tap.

        Raises:
            SpecError: if the network does not have as many, or does not say which its blocks are.
        """
        known = self.blocks_in_order()
        if not last <= len(known):
            raise SpecError(
                f"{last} blocks of the backbone are to learn, but {type(self).__name__} has {len(known)} up to its tap"
            )
        for block in known[-last:]:
            block.requires_grad_(True)
        return known[-last:]

    def freeze(self) -> Self:
        """Disable gradients and stay in eval mode from now on, even when a parent module calls ``train()``."""
        self._frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, unless frozen: no drop-path, no BatchNorm drift in a frozen backbone."""
        return super().train(mode and not self._frozen)

    @property
    def num_parameters(self) -> int:
        """Number of parameters up to the tap."""
        return sum(parameter.numel() for parameter in self.parameters())


def listed_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network keeps in a list, or in a list of stages, under one of the usual names."""
    for name in ("blocks", "layers", "levels", "stages"):
        parts = getattr(network, name, None)
        if isinstance(parts, nn.ModuleList | nn.Sequential):
            return [block for part in parts for block in getattr(part, "blocks", None) or [part]]
    return []


_MOST_IMAGES = 8
_MOST_PIXELS = _MOST_IMAGES * 224 * 224


def batch_size(height: int, width: int) -> int:
    """Return the batch size for a canvas: 8 images up to 224 x 224 pixels, fewer for larger canvases."""
    return max(1, min(_MOST_IMAGES, _MOST_PIXELS // (height * width)))


@torch.no_grad()
def encode(network: VisionBackbone, pixel_values: Tensor) -> Tensor:
    """Return the visual tokens of images, independent of how the images are grouped.

    Kernels round differently for different batch sizes, so a network in eval mode always sees batches of one size, the
    last one padded. In training mode (as-published wiring) outputs depend on the batch anyway, and it is passed whole.

    Args:
        network: the backbone, on the device of the pixels.
        pixel_values: ``[I, 3, H, W]``.

    Returns:
        ``[I, N, D]`` float32, rounded to float16.
    """
    pixels = pixel_values.float()
    if network.training:
        return _rounded(network(pixels))
    size = batch_size(*pixels.shape[-2:])
    missing = -len(pixels) % size
    padded = torch.cat([pixels, pixels[:1].expand(missing, -1, -1, -1)]) if missing else pixels
    tokens = torch.cat([_rounded(network(part)) for part in padded.split(size)])
    return tokens[: len(pixels)]


def _rounded(tokens: Tensor) -> Tensor:
    return tokens.half().float()
