"""Build the network that a VMamba or MambaVision golden describes, from its own fields alone."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from eyeswap.backbones.mambavision import MambaVision
from eyeswap.backbones.vmamba import VMamba, VMambaClassifier


def build(golden: dict[str, Any]) -> nn.Module:
    """Return the network, not yet loaded, whose output the golden recorded."""
    return _vmamba(golden) if golden["model"].startswith("vmamba") else _mambavision(golden)


def _vmamba(golden: dict[str, Any]) -> nn.Module:
    kwargs = golden["kwargs"]
    network = {
        "embed_dim": kwargs["dims"],
        "depths": kwargs["depths"],
        "d_state": kwargs["ssm_d_state"],
        "ssm_ratio": kwargs["ssm_ratio"],
        "mlp_ratio": kwargs["mlp_ratio"],
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
