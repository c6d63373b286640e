"""Visual tokens as everything downstream sees them: the same numbers for an image, whatever else is in its batch.

Kernels may add in another order when a batch has another size, and the last digits of a token then depend on the
batch. So a frozen network in eval mode always sees batches of one size (chosen by the canvas, the last one filled up),
and tokens are rounded to float16, as the token cache stores them: computing them again gives what was stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone

_MOST_IMAGES = 8
_MOST_PIXELS = _MOST_IMAGES * 224 * 224


def batch_size(height: int, width: int) -> int:
    """Return how many images of a canvas go through a network together: 8 up to 224 x 224 pixels, fewer above."""
    return max(1, min(_MOST_IMAGES, _MOST_PIXELS // (height * width)))


@torch.no_grad()
def encode(network: VisionBackbone, pixel_values: Tensor) -> Tensor:
    """Return the visual tokens of images.

    A network in training mode (the wiring as published) sees the whole batch at once, because its numbers depend on
    the batch anyhow.

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
    filled = torch.cat([pixels, pixels[:1].expand(missing, -1, -1, -1)]) if missing else pixels
    tokens = torch.cat([_rounded(network(part)) for part in filled.split(size)])
    return tokens[: len(pixels)]


def _rounded(tokens: Tensor) -> Tensor:
    return tokens.half().float()
