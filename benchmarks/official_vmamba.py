"""The authors' own VMamba (the single file ``vmamba.py`` of MzeroMiko/VMamba) as a peer, from your checkout.

eyeswap contains none of it: pass the folder of the checkout as ``--official``. Modules that the file imports but does
not need on a CPU (Triton, timm's registry, fvcore) are replaced by stubs during the import.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyeswap.backbones.vmamba import VMamba
from eyeswap.errors import SpecError


class _NoDropPath(nn.Identity):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


def _stand_ins() -> dict[str, types.ModuleType]:
    contents: dict[str, dict[str, Any]] = {
        "triton": {"jit": lambda function: function},
        "triton.language": {"constexpr": int, "tensor": object},
        "timm": {},
        "timm.models": {"register_model": lambda *_, **__: lambda function: function},
        "timm.models.layers": {"DropPath": _NoDropPath, "trunc_normal_": nn.init.trunc_normal_},
        "fvcore": {},
        "fvcore.nn": dict.fromkeys(("FlopCountAnalysis", "flop_count_str", "flop_count", "parameter_count")),
    }
    modules = {name: types.ModuleType(name) for name in contents}
    for name, module in modules.items():
        vars(module).update(contents[name])
    modules["triton"].language = modules["triton.language"]  # type: ignore[attr-defined]
    return modules


def official_module(checkout: Path) -> types.ModuleType:
    """Import ``vmamba.py`` from a checkout.

    Raises:
        SpecError: if the file does not exist.
    """
    if not (checkout / "vmamba.py").is_file():
        raise SpecError(f"--official {checkout}: has no vmamba.py; pass a checkout of MzeroMiko/VMamba")
    stand_ins = _stand_ins()
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(checkout))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("vmamba")
    finally:
        sys.path.remove(str(checkout))
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class OfficialVMamba(nn.Module):
    """The authors' network with the weights of one of ours, up to the last block."""

    def __init__(self, checkout: Path, ours: VMamba, architecture: dict[str, Any]) -> None:
        super().__init__()
        module = official_module(checkout)
        self.network = module.VSSM(
            dims=architecture["embed_dim"], depths=list(architecture["depths"]), ssm_ratio=architecture["ssm_ratio"],
            ssm_d_state=1, ssm_dt_rank="auto", ssm_conv=3, ssm_conv_bias=False, forward_type="v05_noz", mlp_ratio=4.0,
            downsample_version="v3", patchembed_version="v2", norm_layer="ln2d",
        ).eval()  # fmt: skip
        expected = self.network.state_dict()
        weights = {_new_spelling(key): value for key, value in ours.state_dict().items()}
        missing = [key for key in expected if key not in weights and not key.startswith("classifier")]
        if missing:
            raise SpecError(f"--official {checkout}: its network has a key that ours lacks: {missing[0]}")
        fitted = {key: weights[key].view(value.shape) for key, value in expected.items() if key in weights}
        self.network.load_state_dict(fitted, strict=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, D, h, w]``."""
        x = self.network.patch_embed(pixel_values)
        for index, stage in enumerate(self.network.layers):
            x = stage.blocks(x) if index == len(self.network.layers) - 1 else stage(x)
        return x


def _new_spelling(key: str) -> str:
    return key.replace("x_proj_weight", "x_proj.weight").replace("dt_projs_weight", "dt_projs.weight")


def official_core(checkout: Path) -> Any:
    """Return a function like `published_style.ss2d_published_style` that calls the authors' functions."""
    module = official_module(checkout)

    def core(x: Tensor, x_proj: Tensor, dt_projs: Tensor, dt_bias: Tensor, a_logs: Tensor, skip: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        length, rank, states = height * width, dt_projs.shape[2], a_logs.shape[1]
        scans = module.cross_scan_fn(x, in_channel_first=True, out_channel_first=True, scans=0, force_torch=True)
        projected = torch.nn.functional.conv1d(scans.view(batch, -1, length), x_proj.view(-1, channels, 1), groups=4)
        code, b, c = projected.view(batch, 4, -1, length).split([rank, states, states], dim=2)
        delta = torch.nn.functional.conv1d(
            code.contiguous().view(batch, -1, length), dt_projs.view(-1, rank, 1), groups=4
        )
        y = module.selective_scan_fn(
            scans.view(batch, -1, length), delta, -a_logs.exp(), b.contiguous(), c.contiguous(), skip, dt_bias.view(-1),
            True, True, backend="torch",
        )  # fmt: skip
        merged = module.cross_merge_fn(
            y.view(batch, 4, -1, height, width),
            in_channel_first=True,
            out_channel_first=True,
            scans=0,
            force_torch=True,
        )
        return merged.view_as(x)

    return core
