"""VMamba as its authors' code computes it on a CPU: the peer of the speed tables.

Channels first throughout. Every mixer copies the map into four scans, projects them with grouped convolutions,
builds decay and drive of all steps at once, walks the steps one by one in Python, and merges four outputs.
State-dict keys are those of `eyeswap.backbones.vmamba`, so both sides run the same weights. Written from the
papers and from what the released code does; ``--official`` of backbones.py times that code itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.vmamba import VMamba


def ss2d_published_style(
    x: Tensor, x_proj: Tensor, dt_projs: Tensor, dt_bias: Tensor, a_logs: Tensor, skip: Tensor
) -> Tensor:
    """Scan a map ``[B, D, H, W]`` in four directions; weights as in `eyeswap.ops.ss2d.ss2d`."""
    batch, channels, height, width = x.shape
    length, rank, states = height * width, dt_projs.shape[2], a_logs.shape[1]
    forward = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
    scans = torch.cat([forward, forward.flip(-1)], dim=1)  # [B, 4, D, L]
    projected = F.conv1d(scans.view(batch, -1, length), x_proj.view(-1, channels, 1), groups=4)
    code, b, c = projected.view(batch, 4, -1, length).split([rank, states, states], dim=2)
    delta = F.conv1d(code.reshape(batch, -1, length), dt_projs.view(-1, rank, 1), groups=4)
    y = scan_published_style(
        scans.view(batch, -1, length),
        delta,
        -a_logs.float().exp(),
        b.contiguous(),
        c.contiguous(),
        skip,
        dt_bias.view(-1),
    ).view(batch, 4, channels, length)
    y = y[:, :2] + y[:, 2:].flip(-1)
    columns = y[:, 1].view(batch, channels, width, height).transpose(2, 3).reshape(batch, channels, length)
    return (y[:, 0] + columns).view_as(x)


def scan_published_style(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, bias: Tensor
) -> Tensor:
    """Run the selective scan ``[B, 4*D, L]`` in float32 as a loop over the steps."""
    batch, groups, states, length = b.shape
    channels = u.shape[1] // groups
    delta = F.softplus(delta + bias[:, None])
    u, delta, a, b, c = u.float(), delta.float(), a.float(), b.float(), c.float()
    b, c = (t.unsqueeze(2).repeat(1, 1, channels, 1, 1).view(batch, -1, states, length) for t in (b, c))
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, a))
    drive = torch.einsum("bdl,bdnl,bdl->bdln", delta, b, u)
    state = a.new_zeros(batch, u.shape[1], states)
    outputs = []
    for step in range(length):
        state = decay[:, :, step] * state + drive[:, :, step]
        outputs.append(torch.einsum("bdn,bdn->bd", state, c[:, :, :, step]))
    return torch.stack(outputs, dim=2) + u * skip[:, None]


class PublishedStyleVMamba(nn.Module):
    """A VMamba (v05_noz), computed channels first, with the parameters of one of ours."""

    def __init__(self, ours: VMamba) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to the features at the tap, ``[B, D, h, w]``."""
        first, _, norm1, _, _, second, _, norm2 = self.ours.patch_embed
        x = F.gelu(_norm(_conv(pixel_values, first), norm1))
        x = _norm(_conv(x, second), norm2)
        for stage in self.ours.layers:
            for block in stage.blocks:
                x = x + self._mix(_norm(x, block.norm), block.op)
                hidden = F.gelu(_linear(_norm(x, block.norm2), block.mlp.fc1))
                x = x + _linear(hidden, block.mlp.fc2)
            if stage.downsample is not None:
                x = _norm(_conv(x, stage.downsample[1]), stage.downsample[3])
        return x

    def _mix(self, x: Tensor, op: nn.Module) -> Tensor:
        x = F.silu(_conv(_linear(x, op.in_proj), op.conv2d))
        y = ss2d_published_style(x, op.x_proj_weight, op.dt_projs_weight, op.dt_projs_bias, op.A_logs, op.Ds)
        return _linear(_norm(y, op.out_norm), op.out_proj)


def _norm(x: Tensor, norm: nn.Module) -> Tensor:
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


def _conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
