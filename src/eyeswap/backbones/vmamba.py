"""VMamba: stages of blocks whose token mixer scans the feature map in four directions.

Keys and arithmetic are those of the official ``vmamba.py`` (MzeroMiko/VMamba): forward type ``v05_noz`` of the
published study's main checkpoints, and ``v0``, the first ("vanilla") release. Unusual: the study taps stage 3 after a
LayerNorm (``outnorm2``) that ImageNet checkpoints never trained, so the norm at the tap is explicit here; maps are
channels-last throughout; layers after the tap are not built.
Source: Liu et al., VMamba: Visual State Space Model (arXiv 2401.10166).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, empty, nn, ones

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.vit import MLP
from eyeswap.errors import SpecError, nearest
from eyeswap.ops.layers import DropPath, drop_path_rates, init_linear, init_state_matrix, init_step_bias
from eyeswap.ops.ss2d import KINDS, ss2d

NORMS = ("trained", "plain", "none")
FORWARD_TYPES = ("v05_noz", "v0")


class VMamba(VisionBackbone):
    """VMamba, truncated after its tap.

    Args:
        embed_dim: channels of the first stage; each later stage doubles them.
        depths: blocks in each stage.
        d_state: state size S of the scan.
        ssm_ratio: width of the scan relative to the stage.
        mlp_ratio: hidden width of the MLP relative to the stage; 0 for no MLP.
        forward_type: ``v05_noz``; or ``v0``, with gated mixers, a stem of one convolution, and downsampling by
            patch merging.
        scan: ``1d``, or ``2d`` along rows and down columns (2DVMamba, arXiv 2412.00678). Their weights have the same
            names and shapes, so a file cannot tell them apart; no ``2d`` weights were released.
        drop_path_rate: stochastic depth of the last block in training, decreasing linearly to 0 at the first.
        tap: ``(stage, block)``: the stage counted from 1, the block from 0 or negative from the end.
        norm: norm after the tap: ``trained`` (the checkpoint's ``outnorm``), ``plain`` (a LayerNorm without
            parameters, as published for ImageNet checkpoints) or ``none``.

    Raises:
        SpecError: if the network has no such block, or ``norm``, ``forward_type`` or ``scan`` is unknown.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 8, 2),
        d_state: int = 1,
        ssm_ratio: float = 1.0,
        mlp_ratio: float = 4.0,
        forward_type: str = "v05_noz",
        scan: str = "1d",
        drop_path_rate: float = 0.0,
        tap: Sequence[int] = (3, -1),
        norm: str = "plain",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise SpecError(f"norm: unknown norm {norm!r} at the tap. {nearest(norm, NORMS)}")
        if forward_type not in FORWARD_TYPES:
            raise SpecError(f"forward_type: unknown type {forward_type!r}. {nearest(forward_type, FORWARD_TYPES)}")
        if scan not in KINDS:
            raise SpecError(f"scan: unknown scan {scan!r}. {nearest(scan, KINDS)}")
        stage, layer = locate_tap(tap, depths)
        self.num_stages, self.norm, self.is_v0 = stage, norm, forward_type == "v0"
        self.embed_dim = embed_dim * 2 ** (stage - 1)
        self.patch_embed = _patch_stem(embed_dim) if self.is_v0 else _stem(embed_dim)
        downsample = MergePatches if self.is_v0 else _downsample
        rates = drop_path_rates(drop_path_rate, depths)
        self.layers = nn.ModuleList()
        for index in range(stage):
            is_last = index == stage - 1
            built = rates[index][: layer + 1] if is_last else rates[index]
            width = embed_dim * 2**index
            blocks = [Block(width, d_state, ssm_ratio, mlp_ratio, self.is_v0, rate, scan) for rate in built]
            self.layers.append(Stage(blocks, None if is_last else downsample(width)))
        if norm == "trained":
            self.add_module(f"outnorm{stage - 1}", nn.LayerNorm(self.embed_dim))
        self.beyond_tap = _beyond_tap(stage, layer, depths, norm)
        self.apply(init_linear)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Return the features at the tap, ``[B, h, w, D]``."""
        features = self.patch_embed(pixel_values.permute(0, 2, 3, 1))  # [B, H/4, W/4, C]
        for stage in self.layers:
            features = stage(features)
        return normed_at_tap(self, features, self.norm, self.num_stages)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the tapped stage; halvings round up, the ``v0`` stem rounds down."""
        halvings = self.num_stages + 1
        if self.is_v0:
            height, width, halvings = height // 4, width // 4, halvings - 2
        for _ in range(halvings):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


class Stage(nn.Module):
    """Blocks of one width, then the downsampling to the next stage."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to the next stage's input or, in the last stage, to the blocks' output."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class Block(nn.Module):
    """SS2D and an optional MLP, each with a pre-norm and a residual connection."""

    def __init__(
        self,
        dim: int,
        d_state: int,
        ssm_ratio: float,
        mlp_ratio: float,
        is_gated: bool = False,
        drop_path: float = 0.0,
        scan: str = "1d",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, d_state, ssm_ratio, is_gated, scan)
        self.drop_path = DropPath(drop_path)
        self.mlp = None
        if mlp_ratio:
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        x = x + self.drop_path(self.op(self.norm(x)))
        return x if self.mlp is None else x + self.drop_path(self.mlp(self.norm2(x)))


class SS2D(nn.Module):
    """The token mixer: project, depthwise convolution, SiLU, scan in four directions, norm, gate, project."""

    def __init__(self, dim: int, d_state: int, ssm_ratio: float, is_gated: bool = False, scan: str = "1d") -> None:
        super().__init__()
        self.inner, self.is_gated, self.scan = int(dim * ssm_ratio), is_gated, scan
        inner, rank = self.inner, math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner if is_gated else inner, bias=False)
        self.conv2d = Conv(inner, inner, 3, padding=1, groups=inner, bias=is_gated)
        self.x_proj_weight = nn.Parameter(empty(4, rank + 2 * d_state, inner).uniform_(-(inner**-0.5), inner**-0.5))
        self.dt_projs_weight = nn.Parameter(empty(4, inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_projs_bias = nn.Parameter(empty(4, inner))
        self.A_logs = nn.Parameter(empty(4 * inner, d_state))
        self.Ds = nn.Parameter(ones(4 * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        init_step_bias(self.dt_projs_bias)
        init_state_matrix(self.A_logs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        x, *gate = self.in_proj(x).split(self.inner, dim=3)  # [B, H, W, inner], and a gate of the same shape
        x = F.silu(self.conv2d(x))
        weights = (self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds)
        y = ss2d(x, *weights, kind=self.scan)
        y = self.out_norm(y)
        mixed: Tensor = self.out_proj(y * F.silu(gate[0]) if self.is_gated else y)
        return mixed


class Conv(nn.Conv2d):
    """A convolution on channels-last maps, ``[B, H, W, C]``; torch gets a channels-first view of the same memory."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # or torch converts it every time

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, h, w, C]`` to the convolved map, also channels-last."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _stem(dim: int) -> nn.Sequential:
    """Two strided convolutions; identities keep the official numbering of the layers (0, 2, 5, 7)."""
    return nn.Sequential(
        Conv(3, dim // 2, 3, stride=2, padding=1),
        nn.Identity(),
        nn.LayerNorm(dim // 2),
        nn.Identity(),
        nn.GELU(),
        Conv(dim // 2, dim, 3, stride=2, padding=1),
        nn.Identity(),
        nn.LayerNorm(dim),
    )


def _downsample(dim: int) -> nn.Sequential:
    """Halve the map and double the channels; layers at the official positions 1 and 3."""
    conv = Conv(dim, 2 * dim, 3, stride=2, padding=1)
    return nn.Sequential(nn.Identity(), conv, nn.Identity(), nn.LayerNorm(2 * dim))


def _patch_stem(dim: int) -> nn.Sequential:
    """One convolution with stride 4, as in ``v0``; layers at the official positions 0 and 2."""
    return nn.Sequential(Conv(3, dim, 4, stride=4), nn.Identity(), nn.LayerNorm(dim))


class MergePatches(nn.Module):
    """Halve the map and double the channels as in ``v0``: join 2x2 cells, norm, project; odd sizes are zero-padded."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, h, w, C]`` to ``[B, h/2, w/2, 2C]``; the four cells are joined column by column, as officially."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        joined = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=3)
        halved: Tensor = self.reduction(self.norm(joined))
        return halved


def normed_at_tap(network: nn.Module, features: Tensor, norm: str, stage: int) -> Tensor:
    """Return features ``[B, h, w, D]`` after the norm at the tap, one of `NORMS`; ``trained`` is ``outnorm``."""
    if norm == "none":
        return features
    if norm == "plain":
        return F.layer_norm(features, features.shape[-1:])
    normed: Tensor = network.get_submodule(f"outnorm{stage - 1}")(features)
    return normed


def locate_tap(tap: Sequence[int], depths: Sequence[int]) -> tuple[int, int]:
    """Return a tap as (stage from 1, block from 0).

    Raises:
        SpecError: if the network has no such block.
    """
    stage, layer = tap
    if not 1 <= stage <= len(depths):
        raise SpecError(f"tap: stage {stage} does not exist in a network of {len(depths)} stages (1-{len(depths)})")
    depth = depths[stage - 1]
    if not -depth <= layer < depth:
        raise SpecError(
            f"tap: block {layer} does not exist in stage {stage} of {depth} blocks; use {-depth}..{depth - 1}"
        )
    return stage, layer % depth


def _beyond_tap(stage: int, layer: int, depths: Sequence[int], norm: str) -> tuple[str, ...]:
    """Return the key prefixes of a complete checkpoint that the truncated network does not use."""
    used = f"outnorm{stage - 1}" if norm == "trained" else ""
    return (
        *(f"layers.{stage - 1}.blocks.{index}." for index in range(layer + 1, depths[stage - 1])),
        f"layers.{stage - 1}.downsample.",
        *(f"layers.{index}." for index in range(stage, len(depths))),
        *(f"outnorm{index}." for index in range(max(4, len(depths))) if f"outnorm{index}" != used),
        "classifier.",
    )


RENAMES = (
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.", "classifier.head."),
    (r"\.(x_proj|dt_projs)\.weight$", r".\1_weight"),
)
LINEAR = re.compile(r"\.(in_proj|out_proj|fc1|fc2)\.weight$")
DIRECTIONS = 4


def official_state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names and in the shapes of `VMamba`.

    Accepts the content of a file (tensors under ``model`` or ``state_dict``, the network possibly under ``backbone.``)
    or the tensors themselves; applying it twice changes nothing. If a file has no norm for the output of stage 4, the
    classifier's norm takes its place, as in the official loader.

    Args:
        content: content of the file.

    Returns:
        All tensors of the network, including the classifier, without the necks and heads of detectors.
    """
    for container in ("model", "state_dict"):
        content = content.get(container, content)
    if any(key.startswith("backbone.") for key in content):
        content = {
            key.removeprefix("backbone."): value for key, value in content.items() if key.startswith("backbone.")
        }
    state = {}
    for key, value in content.items():
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        state[key] = _official_shape(key, value)
    for leaf in ("weight", "bias"):
        if f"classifier.norm.{leaf}" in state:
            state.setdefault(f"outnorm3.{leaf}", state[f"classifier.norm.{leaf}"])
    return state


def _official_shape(key: str, value: Tensor) -> Tensor:
    if key.endswith(("x_proj_weight", "dt_projs_weight")) and value.ndim == 2:
        return value.reshape(DIRECTIONS, -1, value.shape[1])
    if LINEAR.search(key) and value.ndim == 4:
        return value.flatten(1)
    return value
