"""The selective scan on a GPU: a Triton kernel; its gradient is that of the reference, computed when asked for.

One program walks one direction of one image for a block of channels, all states in registers. Directions write
outputs of their own, which are then added up, so that no two programs write to the same place and results do
not depend on their order. Layouts are those of `scan_rows`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eyeswap.ops.selective_scan import scan_reference

BLOCK = 32  # channels of a program: one for each thread of a warp


@triton.jit  # type: ignore[untyped-decorator]
def _log1p(x: tl.tensor) -> tl.tensor:
    """Return log(1 + x) without loss for small x (Kahan): the rounding of 1 + x cancels."""
    y = 1 + x
    return tl.where(y == 1, x, tl.log(y) * (x / (y - 1)))


@triton.jit  # type: ignore[untyped-decorator]
def _scan(
    u: tl.tensor, delta: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor, bias: tl.tensor, order: tl.tensor,
    y: tl.tensor, last: tl.tensor,
    groups: tl.tensor, directions: tl.tensor, length: tl.tensor, channels: tl.tensor, states: tl.tensor,
    USE_SOFTPLUS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0)  # image * directions + direction
    k = row % directions
    group = row // directions * groups + k * groups // directions
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    state = tl.arange(0, BLOCK_S)
    in_c, in_s = channel < channels, state < states
    in_both = in_c[:, None] & in_s[None, :]
    matrix = tl.load(a + (k * states + state[None, :]) * channels + channel[:, None], mask=in_both, other=0.0)
    shift = tl.load(bias + k * channels + channel, mask=in_c, other=0.0)
    h = tl.zeros_like(matrix)  # [BLOCK_C, BLOCK_S]
    t = 0
    while t < length:  # a for loop to a run-time end fails in Triton's interpreter with numpy 2.4
        p = tl.load(order + k * length + t)  # int64, and so are the offsets made of it
        at = row * length + p
        dt = tl.load(delta + at * channels + channel, mask=in_c, other=0.0) + shift
        if USE_SOFTPLUS:
            dt = tl.where(dt > 20, dt, tl.maximum(dt, 0.0) + _log1p(tl.exp(-tl.abs(dt))))
        drive = dt * tl.load(u + (group * length + p) * channels + channel, mask=in_c, other=0.0)
        b_t = tl.load(b + at * states + state, mask=in_s, other=0.0)
        c_t = tl.load(c + at * states + state, mask=in_s, other=0.0)
        h = tl.exp(dt[:, None] * matrix) * h + drive[:, None] * b_t[None, :]
        tl.store(y + at * channels + channel, tl.sum(h * c_t[None, :], axis=1), mask=in_c)
        t += 1
    tl.store(last + (row * states + state[None, :]) * channels + channel[:, None], h, mask=in_both)


@torch.library.custom_op("eyeswap::selective_scan_triton", mutates_args=())
def scan_triton(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    """Return ``y [B, G, L, C]`` and the last states ``[B, K, S, C]``, without skip connection."""
    batch, directions, length, channels = delta.shape
    groups, states = u.shape[1], a.shape[1]
    y = u.new_empty(batch, directions, length, channels)
    last = u.new_empty(batch, directions, states, channels)
    inputs = (tensor.contiguous() for tensor in (u, delta, a, b, c, bias, order))
    grid = (batch * directions, triton.cdiv(channels, BLOCK))
    with torch.cuda.device_of(u):
        _scan[grid](
            *inputs, y, last, groups, directions, length, channels, states,
            USE_SOFTPLUS=softplus, BLOCK_C=BLOCK, BLOCK_S=triton.next_power_of_2(states), num_warps=1,
        )  # fmt: skip
    return (y if groups == directions else y.sum(1, keepdim=True)), last


@scan_triton.register_fake
def _(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty((u.shape[0], *a.shape))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.softplus = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, order = ctx.saved_tensors
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        u, delta, a, b, c, bias = leaves
        outputs = scan_reference(u, delta, a, b, c, bias, order, ctx.softplus)
        gradients = torch.autograd.grad(outputs, leaves, (grad_y, grad_last))
    return (*gradients, None, None)  # order and softplus have none


scan_triton.register_autograd(_differentiate, setup_context=_save_inputs)
