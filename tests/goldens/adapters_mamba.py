"""Build the network that the golden of a state space model describes, from its own fields alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from classifiers import SpatialMambaClassifier, VimClassifier, VMambaClassifier
from eyeswap.backbones.mambavision import MambaVision
from eyeswap.backbones.spatial_mamba import SpatialMamba
from eyeswap.backbones.vim import Vim
from eyeswap.backbones.vmamba import VMamba


class Reading(nn.Module):
    """A whole network, read in a way of its own; ``inner`` is what has the weights."""

    def __init__(self, inner: nn.Module, read: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.read = inner, read

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.read(self.inner, pixel_values)


def build(golden: dict[str, Any]) -> nn.Module:
    """Return the network, not yet loaded, whose output the golden recorded."""
    for family, make in (
        ("vmamba", _vmamba),
        ("2dvmamba", _vmamba),
        ("mambavision", _mambavision),
        ("vim", _vim),
        ("spatial-mamba", _spatial_mamba),
    ):
        if golden["model"].startswith(family):
            return make(golden)
    raise ValueError(f"no adapter for {golden['model']}")


def _vim(golden: dict[str, Any]) -> nn.Module:
    kwargs, tap = golden["kwargs"], golden.get("tap", "")
    names = ("img_size", "patch_size", "stride", "embed_dim", "depth", "d_state", "expand", "d_conv")
    network = {name: kwargs[name] for name in names}
    if "logits" in tap:
        return Reading(VimClassifier(**network), _class_token_and_logits)
    block = re.search(r"block (\d+)", tap)
    return Vim(**network, tap=int(block[1]) if block else -1, final_norm="norm_f(" in tap or "norm_f applied" in tap)


def _class_token_and_logits(network: VimClassifier, pixel_values: Tensor) -> Tensor:
    return torch.cat([network.class_token(pixel_values), network(pixel_values)], dim=1)


def _spatial_mamba(golden: dict[str, Any]) -> nn.Module:
    kwargs, tap = golden["kwargs"], golden["tap"]
    network = {"embed_dim": kwargs["dims"], "depths": kwargs["depths"], "expand": kwargs["expand"]}
    network["mlp_ratio"] = kwargs["mlp_ratio"]
    if "logits" in tap:
        return SpatialMambaClassifier(**network)
    if "classifier" in tap:
        return Reading(SpatialMambaClassifier(**network), lambda whole, x: whole.normed_map(x).flatten(1, 2))
    stage = int(re.search(r"stage (\d)", tap)[1])
    if ".downsample" in tap:
        return Reading(SpatialMamba(**network, tap=(stage + 1, -1)), lambda whole, x: _downsampled(whole, x, stage))
    return SpatialMamba(**network, tap=(stage, -1), norm="trained" if "outnorm" in tap else "none")


def _downsampled(network: SpatialMamba, pixel_values: Tensor, stage: int) -> Tensor:
    features = network.patch_embed(pixel_values.permute(0, 2, 3, 1))
    for layer in network.layers[:stage]:
        features = layer(features)
    return features.flatten(1, 2)


def _vmamba(golden: dict[str, Any]) -> nn.Module:
    kwargs = golden["kwargs"]
    network = {
        "embed_dim": kwargs["dims"],
        "depths": kwargs["depths"],
        "d_state": kwargs["ssm_d_state"],
        "ssm_ratio": kwargs["ssm_ratio"],
        "mlp_ratio": kwargs["mlp_ratio"],
        "scan": "2d" if kwargs.get("use_v2d") else "1d",
        "forward_type": "v0" if kwargs.get("forward_type") == "v0" else "v05_noz",
    }
    if "logits" in golden["tap"]:
        return VMambaClassifier(**network)
    stage = int(re.search(r"stage (\d)", golden["tap"])[1])
    layer = re.search(r"blocks\.(\d+)", golden["tap"])
    norm = "none" if "no norm" in golden["tap"] else "trained"
    return VMamba(**network, tap=(stage, int(layer[1]) if layer else -1), norm=norm)


def _mambavision(golden: dict[str, Any]) -> nn.Module:
    kwargs = golden["kwargs"]
    names = ("dim", "in_dim", "depths", "num_heads", "window_size", "mlp_ratio", "layer_scale")
    network = {name: kwargs[name] for name in names} | {"d_state": kwargs["mamba_d_state"]}
    if "before its downsample" in golden["tap"]:
        return MambaVision(**network, tap=(int(re.search(r"levels\.(\d)", golden["tap"])[1]), "before"))
    stage = int(re.search(r"wrapper stage (\d)", golden["tap"])[1])
    tap = (3, "norm") if stage == 5 else (stage - 2, "after")
    return MambaVision(**network, tap=tap)
