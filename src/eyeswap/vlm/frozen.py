"""The frozen backbone of a VLM: loaded by name at first use, outside the model's module tree.

Optimisers, checkpoints, sharding and casts of the VLM therefore never touch it. It stays in float32. In the controlled
wiring it stays in eval mode; as published, it follows the VLM's ``train()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import cached_file

from eyeswap.backbones.base import encode as encode_images
from eyeswap.backbones.weights import LoadedBackbone, load_backbone
from eyeswap.errors import CheckpointError, SpecError
from eyeswap.files import write_safetensors
from eyeswap.own_code import OwnFunction
from eyeswap.vlm.configuration import VisionLanguageConfig

BACKBONE_FILE = "backbone.safetensors"


def load_frozen(config: VisionLanguageConfig, folder: str, *, trusts_code: bool) -> LoadedBackbone:
    """Load the backbone that a config names.

    Args:
        config: the config of the VLM.
        folder: where the VLM was loaded from, a folder or a repository of the Hub; may contain the backbone's weights.
        trusts_code: whether the Python file of an encoder of one's own may run; a config can name any file.

    Raises:
        SpecError: if the VLM was made without one, or its code is not trusted.
        CheckpointError: if its weights cannot be loaded, or are not those that the VLM was trained with.
    """
    if not config.backbone:
        raise SpecError("this VLM was made without a backbone: pass visual_tokens instead of pixels")
    own = OwnFunction.parse(config.backbone)
    if own is not None and not trusts_code:
        raise SpecError(
            f"{folder}: its backbone is code of its own, {own.file}; read it, and if you trust it load with "
            "--trust-code (in Python trust_remote_code=True)"
        )
    if config.backbone_file is not None:
        try:
            file = Path(cached_file(folder, config.backbone_file))
        except OSError:
            raise CheckpointError(f"{folder}: {config.backbone_file} is missing, but its config names it") from None
        return load_backbone(config.backbone, file, config.wiring, tap=config.tap)
    loaded = load_backbone(config.backbone, wiring=config.wiring, tap=config.tap)
    if config.weights_sha256 not in (None, loaded.weights_sha256):
        raise CheckpointError(
            f"backbone {config.backbone}: the weights found have sha256 {loaded.weights_sha256[:12]}, but {folder} was "
            f"trained with {config.weights_sha256[:12]}"
        )
    return loaded


def save_frozen(loaded: LoadedBackbone, folder: Path) -> None:
    """Write a backbone's weights into the folder of a VLM."""
    state: Mapping[str, Tensor] = loaded.network.state_dict()
    write_safetensors(folder / BACKBONE_FILE, {key: value.contiguous() for key, value in state.items()})


def encode(loaded: LoadedBackbone, pixel_values: Tensor, image_sizes: Tensor | None = None) -> Tensor:
    """Return visual tokens, see `eyeswap.backbones.base`.

    Args:
        loaded: the backbone; moved to the device of the pixels.
        pixel_values: ``[I, 3, H, W]``.
        image_sizes: ``[I, 2]`` height and width of each canvas, if canvases vary; each is then encoded by itself.

    Returns:
        ``[I, N, D]``, or with ``image_sizes`` the tokens of all images concatenated, ``[N1 + N2 + ..., D]``.
    """
    network = loaded.network.to(pixel_values.device)
    if image_sizes is None:
        return encode_images(network, pixel_values)
    crops = [
        pixels[None, :, :height, :width]
        for pixels, (height, width) in zip(pixel_values, image_sizes.tolist(), strict=True)
    ]
    return torch.cat([encode(loaded, crop)[0] for crop in crops])
