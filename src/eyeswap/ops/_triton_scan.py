"""The selective scan on a GPU: the forward Triton kernel, and both kernels as one differentiable operator.

One program scans one direction of one image for a block of channels, one tile of steps at a time, with the state in
registers. Directions write separate outputs, which are then added, so that no two programs write to the same memory and
results do not depend on their order. Layouts are those of `scan_rows`.

Cost per output value (one channel at one step of one direction), float32:

- Reads: delta 4 B, u 4 B, and 8 S + 8 B of B, C and order per block of channels. Writes: y 4 B. Directions that share
  their rows are summed by torch, which reads 4 B per direction and writes 4 B. Every value is read once, so the L2
  cache matters only for u, which K directions read.
- Tile: 32 steps x 32 channels for one state, 16 x 32 up to eight states, 16 x 16 above (`tile_shape`). Warps: one per
  1,024 elements of the tile, at least four for fewer than 1,024 programs (`warps`).
- Registers: dt, u, decay, drive and state of the tile's elements, 5 x 32 per thread for one state on a single warp, the
  same for eight or sixteen states on four.
- Autotuning: none, so results do not depend on the machine. Worth trying on a GPU: 16 to 64 steps, 16 to 64 channels,
  one to eight warps.
- In PTX, delta, u and y move 16 B per thread along the channels if a thread has so many elements of a row; orders are
  loaded by 8 B, one step at a time, as rows of any length start at any address.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eyeswap.ops._triton_math import last_step, recur, step_sizes, tile_shape, warps
from eyeswap.ops._triton_scan_backward import scan_triton_backward


@triton.jit  # type: ignore[untyped-decorator]
def _scan(
    u: tl.tensor, delta: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor, bias: tl.tensor, order: tl.tensor,
    y: tl.tensor, last: tl.tensor, groups: tl.tensor, directions: tl.tensor, length: tl.tensor, channels: tl.tensor,
    STATES: tl.constexpr, USE_SOFTPLUS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
) -> None:  # fmt: skip
    image, k = tl.program_id(0).to(tl.int64) // directions, tl.program_id(0) % directions
    scan, group = image * directions + k, image * groups + k * groups // directions
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    state = tl.arange(0, BLOCK_S)
    in_c, in_s = channel < channels, state < STATES
    in_cs = in_c[:, None] & in_s[None, :]
    matrix = tl.load(a + (k * STATES + state[None, :]) * channels + channel[:, None], mask=in_cs, other=0.0)
    shift = tl.load(bias + k * channels + channel, mask=in_c, other=0.0)
    h = tl.zeros_like(matrix)
    start = 0
    while start < length:  # a for loop to a run-time end fails in Triton's interpreter with numpy 2.4
        step = start + tl.arange(0, BLOCK_T)
        in_t = step < length
        p = tl.load(order + k * length + step, mask=in_t, other=0)  # int64, like all offsets computed from it
        in_tc, in_ts = in_t[:, None] & in_c[None, :], in_t[:, None] & in_s[None, :]
        at = (scan * length + p)[:, None]
        x = tl.load(delta + at * channels + channel[None, :], mask=in_tc, other=0.0) + shift[None, :]
        dt = step_sizes(x, in_t, USE_SOFTPLUS)
        u_t = tl.load(u + (group * length + p)[:, None] * channels + channel[None, :], mask=in_tc, other=0.0)
        b_t = tl.load(b + at * STATES + state[None, :], mask=in_ts, other=0.0)
        c_t = tl.load(c + at * STATES + state[None, :], mask=in_ts, other=0.0)
        states = recur(tl.exp(dt[:, :, None] * matrix[None, :, :]), (dt * u_t)[:, :, None] * b_t[:, None, :], h)
        h = last_step(states)
        tl.store(y + at * channels + channel[None, :], tl.sum(states * c_t[:, None, :], axis=2), mask=in_tc)
        start += BLOCK_T
    tl.store(last + (scan * STATES + state[None, :]) * channels + channel[:, None], h, mask=in_cs)


@torch.library.custom_op("eyeswap::selective_scan_triton", mutates_args=())
def scan_triton(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    """Return ``y [B, G, L, C]`` and the last states ``[B, K, S, C]``, without the skip connection."""
    batch, directions, length, channels = delta.shape
    groups, states = u.shape[1], a.shape[1]
    y = u.new_empty(batch, directions, length, channels)
    last = u.new_empty(batch, directions, states, channels)
    inputs = (tensor.contiguous() for tensor in (u, delta, a, b, c, bias, order))
    block_t, block_c, block_s = tile_shape(states)
    grid = (batch * directions, triton.cdiv(channels, block_c))
    with torch.cuda.device_of(u):
        _scan[grid](
            *inputs, y, last, groups, directions, length, channels, states, softplus, block_t, block_c, block_s,
            num_warps=warps(block_t * block_c * block_s, grid[0] * grid[1]),
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
    return (*scan_triton_backward(grad_y, grad_last, *ctx.saved_tensors, ctx.softplus), None, None)


scan_triton.register_autograd(_differentiate, setup_context=_save_inputs)
