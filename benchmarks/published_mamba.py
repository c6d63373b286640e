"""Vim and Spatial-Mamba as their authors' code computes them on a CPU: the peers in the speed tables.

Both take the steps of a scan one by one in Python, after computing decay and drive of all steps at once. Vim reverses
the sequence for its second direction; its convolutions and projections are channels-first. Spatial-Mamba's repository
has no CPU scan: the same loop is used to keep all states, and one 11 x 11 depthwise convolution on a padded map mixes
them. Both use the weights of one of our networks. Written from the papers and from what the released code does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.backbones.spatial_mamba import DILATIONS, SpatialMamba, StructuredScan
from eyeswap.backbones.vim import Mixer, Vim


def both_ways_published_style(
    x: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, a_log: Tensor, skip: Tensor
) -> Tensor:
    """Scan ``[B, 2, L, D]`` both ways and add; arguments as for `eyeswap.ops.bidirectional_scan`."""
    total = 0
    for way in range(2):
        rows = x[:, way].transpose(1, 2).contiguous()
        rows = rows.flip(-1) if way else rows
        rank, states = dt_proj.shape[2], a_log.shape[2]
        code, b, c = torch.einsum("bdl,cd->bcl", rows, x_proj[way]).split([rank, states, states], dim=1)
        delta = F.softplus(torch.einsum("brl,dr->bdl", code, dt_proj[way]) + dt_bias[way, :, None])
        history = all_states(rows, delta, -a_log[way].exp(), b)
        y = torch.stack([torch.einsum("bdn,bn->bd", h, c[:, :, t]) for t, h in enumerate(history)], dim=2)
        y = y + rows * skip[way, :, None]
        total = total + (y.flip(-1) if way else y)
    return total.transpose(1, 2)


def states_published_style(x: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, a_log: Tensor) -> Tensor:
    """Return the states ``[B, L, D]`` of a scan of ``[B, L, D]``; arguments as for `eyeswap.ops.scan_states`."""
    rows = x.transpose(1, 2).contiguous()
    code, b, _ = torch.einsum("bdl,cd->bcl", rows, x_proj).split([dt_proj.shape[1], 1, 1], dim=1)
    delta = F.softplus(torch.einsum("brl,dr->bdl", code, dt_proj) + dt_bias[:, None])
    return torch.stack(all_states(rows, delta, -a_log.exp(), b), dim=2)[..., 0].transpose(1, 2)


def all_states(u: Tensor, delta: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Return the state ``[B, D, S]`` of every step; ``u`` and ``delta`` are ``[B, D, L]``, ``b`` is ``[B, S, L]``."""
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, a))
    drive = torch.einsum("bdl,bnl,bdl->bdln", delta, b, u)
    state, states = u.new_zeros(*u.shape[:2], a.shape[1]), []
    for step in range(u.shape[2]):
        state = decay[:, :, step] * state + drive[:, :, step]
        states.append(state)
    return states


class PublishedStyleVim(nn.Module):
    """A Vim with the parameters of one of ours, ``[B, 3, H, W]`` to tokens ``[B, N, D]`` at the tap."""

    def __init__(self, ours: Vim) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, pixel_values: Tensor) -> Tensor:
        ours = self.ours
        patches = ours.patch_embed["proj"](pixel_values).flatten(2).transpose(1, 2)
        middle = patches.shape[1] // 2
        stream = torch.cat([patches[:, :middle], ours.cls_token.expand(len(patches), -1, -1), patches[:, middle:]], 1)
        stream = stream + ours._positions(ours.token_grid(*pixel_values.shape[-2:]))
        for block in ours.layers:
            scale = torch.rsqrt(stream.square().mean(-1, keepdim=True) + block.norm.eps)
            stream = stream + self._mix(stream * scale * block.norm.weight, block.mixer)
        return torch.cat([stream[:, :middle], stream[:, middle + 1 :]], dim=1)

    def _mix(self, x: Tensor, mixer: Mixer) -> Tensor:
        xz = (mixer.in_proj.weight @ x.transpose(1, 2)).contiguous()  # [B, 2*inner, L]
        forward = self._scan(xz, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D)
        backward = self._scan(xz.flip(-1), mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b)
        return F.linear((forward + backward.flip(-1)).transpose(1, 2) / 2, mixer.out_proj.weight)

    def _scan(
        self, xz: Tensor, conv: nn.Conv1d, x_proj: nn.Linear, dt_proj: nn.Linear, a_log: Tensor, skip: Tensor
    ) -> Tensor:
        x, z = xz.chunk(2, dim=1)
        x = F.silu(
            F.conv1d(x, conv.weight, conv.bias, padding=conv.kernel_size[0] - 1, groups=len(skip))[..., : x.shape[2]]
        )
        states = a_log.shape[1]
        code, b, c = x_proj(x.transpose(1, 2)).transpose(1, 2).split([dt_proj.in_features, states, states], dim=1)
        delta = F.softplus(dt_proj.weight @ code + dt_proj.bias[:, None])
        outputs = [
            torch.einsum("bdn,bn->bd", h, c[:, :, t]) for t, h in enumerate(all_states(x, delta, -a_log.exp(), b))
        ]
        return (torch.stack(outputs, dim=2) + x * skip[:, None]) * F.silu(z)


class PublishedStyleSpatialMamba(nn.Module):
    """A Spatial-Mamba with the parameters of one of ours, ``[B, 3, H, W]`` to the map ``[B, h, w, D]`` at the tap."""

    def __init__(self, ours: SpatialMamba) -> None:
        super().__init__()
        self.ours = ours
        self.merged = {
            name: _merged(module) for name, module in ours.named_modules() if isinstance(module, StructuredScan)
        }

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.ours.patch_embed(pixel_values.permute(0, 2, 3, 1))
        for index, stage in enumerate(self.ours.layers):
            for number, block in enumerate(stage.blocks):
                x = x + block.cpe1(x)
                name = f"layers.{index}.blocks.{number}.self_attention"
                x = x + self._mix(block.ln_1(x), block.self_attention, self.merged[name])
                x = x + block.cpe2(x)
                x = x + block.mlp._mapped(block.ln_2(x))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return x

    def _mix(self, x: Tensor, op: StructuredScan, kernel: Tensor) -> Tensor:
        x, z = op.in_proj(x).chunk(2, dim=3)
        height, width, inner = x.shape[1:]
        x = F.silu(
            F.conv2d(x.permute(0, 3, 1, 2).contiguous(), op.conv2d.weight, op.conv2d.bias, padding=1, groups=inner)
        )
        rows = x.flatten(2)  # [B, inner, L]
        rank = op.dt_projs_weight.shape[1]
        code, b, c = torch.einsum("bdl,cd->bcl", rows, op.x_proj_weight).split([rank, 1, 1], dim=1)
        delta = F.softplus(torch.einsum("brl,dr->bdl", code, op.dt_projs_weight) + op.dt_projs_bias[:, None])
        states = torch.stack(all_states(rows, delta, -op.A_logs.exp(), b), dim=2)[..., 0]  # [B, inner, L]
        padded = F.pad(states.unflatten(2, (height, width)), (5,) * 4, mode="replicate")
        fused = F.conv2d(padded, kernel, groups=inner).flatten(2)
        y = (fused * c + op.Ds[:, None] * rows).transpose(1, 2).unflatten(1, (height, width))
        return op.out_proj(op.out_norm(y) * F.silu(z))


def _merged(op: StructuredScan) -> Tensor:
    """Return the three kernels of a state fusion as a single 11 x 11 kernel."""
    fusion = op.state_fusion
    kernels = (fusion.kernel_3, fusion.kernel_3_1, fusion.kernel_3_2)
    merged = kernels[0].new_zeros(len(kernels[0]), 1, 11, 11)
    for dilation, kernel, share in zip(DILATIONS, kernels, fusion.alpha, strict=True):
        reach = slice(5 - dilation, 6 + dilation, dilation)
        merged[:, :, reach, reach] += share * kernel
    return merged
