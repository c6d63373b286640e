"""Build the network that a ViT, MaxViT, ViTDet or ViT-Adapter golden describes, from its own fields alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from eyeswap.backbones.beit import BEiTAdapter
from eyeswap.backbones.maxvit import MaxViT
from eyeswap.backbones.uniperceiver import UniPerceiverAdapter
from eyeswap.backbones.vit import ViT
from eyeswap.backbones.vit_adapter import ViTAdapter
from eyeswap.backbones.vitdet import ViTDet


class WithClassToken(nn.Module):
    """A ViT whose output keeps the class token, as some goldens do."""

    def __init__(self, inner: ViT) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.inner.sequence(pixel_values)


def build(golden: Mapping[str, Any], keys: Mapping[str, Any]) -> nn.Module:
    """Return the network, not yet loaded, whose output the golden recorded."""
    for family, make in (
        ("vit-adapter", _vit_adapter),
        ("vitdet", _vitdet),
        ("maxvit", _maxvit),
        ("vit", _vit),
    ):
        if golden["model"].startswith(family):
            return make(golden, keys)
    raise ValueError(f"no adapter for {golden['model']}")


def _depth(keys: Mapping[str, Any], pattern: str) -> int:
    return 1 + max(int(match[1]) for key in keys if (match := re.match(pattern, key)))


def _vit(golden: Mapping[str, Any], keys: Mapping[str, Any]) -> nn.Module:
    width, _, patch, _ = keys["patch_embed.proj.weight"][0]
    depth = _depth(keys, r"blocks\.(\d+)\.")
    facts = golden.get("facts", {})
    network = {
        "img_size": golden["kwargs"].get("img_size", 224),
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": facts.get("heads", width // 64),
    }
    tapped = re.search(r"blocks\.(\d+)", golden.get("tap", ""))
    if tapped is None or "final norm" in golden["tap"].replace("no final norm", ""):
        return WithClassToken(ViT(**network, tap=-1, final_norm=True))
    return ViT(**network, tap=int(tapped[1]))


def _maxvit(golden: Mapping[str, Any], keys: Mapping[str, Any]) -> nn.Module:
    num_stages = _depth(keys, r"stages\.(\d+)\.")
    stages = range(num_stages)
    table = keys["stages.0.blocks.0.attn_block.attn.rel_pos.relative_position_bias_table"][0]
    stage = re.search(r"stage (\d) of", golden.get("tap", ""))
    return MaxViT(
        stem_dim=keys["stem.conv1.weight"][0][0],
        dims=[keys[f"stages.{i}.blocks.0.conv.conv3_1x1.weight"][0][0] for i in stages],
        depths=[_depth(keys, rf"stages\.{i}\.blocks\.(\d+)\.") for i in stages],
        window=(table[-1] + 1) // 2,
        tap=int(stage[1]) if stage else num_stages,
    )


_VITDET = (
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "window_size",
    "window_block_indexes", "pretrain_img_size",
)  # fmt: skip
_VIT_ADAPTER = (
    "embed_dim", "depth", "num_heads", "mlp_ratio", "conv_inplane", "n_points", "deform_num_heads",
    "deform_ratio", "cffn_ratio", "interaction_indexes",
)  # fmt: skip


def _vitdet(golden: Mapping[str, Any], keys: Mapping[str, Any]) -> nn.Module:
    return ViTDet(**{name: golden["kwargs"][name] for name in _VITDET})


def _vit_adapter(golden: Mapping[str, Any], keys: Mapping[str, Any]) -> nn.Module:
    kwargs = golden["kwargs"]
    level = re.search(r"output f?(\d) of 4", golden.get("tap", ""))
    network = {name: kwargs[name] for name in _VIT_ADAPTER}
    network["tap"] = int(level[1]) + (level[0][7] != "f") if level else 3  # f1 is the first, output 0 is too
    if "beit" in golden["model"]:
        return BEiTAdapter(**network, pretrain_size=kwargs["img_size"])
    if "uniperceiver" in golden["model"]:
        windows = zip(kwargs["window_attn"], kwargs["window_size"], strict=True)
        return UniPerceiverAdapter(**network, windows=[size if is_windowed else None for is_windowed, size in windows])
    side = round((keys["pos_embed"][0][1] - 1) ** 0.5)
    return ViTAdapter(**network, pretrain_size=16 * side)
