"""SS2D on a GPU: one Triton kernel that scans a map in four directions in place and adds the results.

One program scans one image for a block of channels: one direction after another, one tile of steps after another, with
the state in registers. A direction is index arithmetic: step t visits position t (0, by rows) or ``(t % H) W + t // H``
(1, by columns), and directions 2 and 3 count t from the end. Step sizes are computed in the kernel, as the product of
the step-size code and its weights, so nothing of the size of four maps is ever written. Each direction adds to the sum
of the previous ones, always in the same order, and no two programs write to the same memory. A few images are too few
programs to fill a GPU: then each direction is a program with its own output, and the outputs are added afterwards.

For each state of a channel: ``h[t] = exp(dt A) h[t-1] + dt u B``, ``y = sum C h``, ``dt = softplus(W code + bias)``.

Cost per output value (one channel at one position), bfloat16 map and float32 state:

- Reads: x 4 x 2 B, sums of the previous directions 3 x 4 B, and 8 (R + 2 S) B of codes, B and C per block of channels,
  2 B for R = 6 and S = 1. Writes: sums 3 x 4 B, the output 2 B. That is 36 B against 4 B for reading x and writing y
  once. The first pass reads x from memory. Later ones find x and the sums in the L2 cache if the running programs fit
  into it: a program covers 38 KB of both at 14 x 14 and 0.6 MB at 56 x 56, so large maps may pay the 36 B.
- Tile: 32 steps x 32 channels for one state, 16 x 32 up to eight states, 16 x 16 above (`tile_shape`). Warps: one per
  1,024 elements of the tile, at least four for fewer than 1,024 programs (`warps`).
- Registers: a thread of a single warp holds 32 elements of x, dt, decay, drive and state, about 160 registers, and the
  weights of the step sizes; four warps hold a quarter each.
- Autotuning: none, so results do not depend on the machine. Worth trying on a GPU: 16 to 64 steps, 16 to 64 channels,
  one to eight warps, and other values of FEW_PROGRAMS.
- In PTX, x and sums are loaded and stored 16 B per thread along the channels if a thread has so many elements of a row.
  Codes are loaded by 4 B, since their mask ends at R, and B and C by element, since positions are R + 2 S values apart.

``benchmarks/ptx.py`` prints what ptxas makes of all that; the table is in ``docs/performance.md``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eyeswap.ops._triton_math import last_step, recur, step_sizes, tile_shape, warps
from eyeswap.ops._triton_scan_backward import scan_triton_backward
from eyeswap.ops.ss2d import cross_scan_order

FEW_PROGRAMS = 256  # about two per multiprocessor of a large GPU


@triton.jit  # type: ignore[untyped-decorator]
def _ss2d(
    x: tl.tensor, projected: tl.tensor, weight: tl.tensor, bias: tl.tensor, a: tl.tensor, skip: tl.tensor,
    total: tl.tensor, y: tl.tensor, height: tl.tensor, width: tl.tensor, channels: tl.tensor,
    RANK: tl.constexpr, STATES: tl.constexpr, DIRECTIONS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
) -> None:  # fmt: skip
    length = height * width
    first_row = tl.program_id(0).to(tl.int64) * length  # offsets of elements pass 2**31 in large batches
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, rank, state = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_S)
    in_c, in_r, in_s = channel < channels, rank < RANK, state < STATES
    skips = tl.load(skip + channel, mask=in_c, other=0.0)
    first_k = tl.program_id(2) * DIRECTIONS
    last_k = first_k + DIRECTIONS - 1
    total += tl.program_id(2).to(tl.int64) * tl.num_programs(0) * length * channels
    k = first_k
    while k <= last_k:
        of_cs = (k * STATES + state[None, :]) * channels + channel[:, None]
        of_rc = (k * channels + channel[None, :]) * RANK + rank[:, None]
        matrix = tl.load(a + of_cs, mask=in_c[:, None] & in_s[None, :], other=0.0)
        shift = tl.load(bias + k * channels + channel, mask=in_c, other=0.0)
        weights = tl.load(weight + of_rc, mask=in_r[:, None] & in_c[None, :], other=0.0)
        h = tl.zeros_like(matrix)
        start = 0
        while start < length:
            step = start + row
            in_t = step < length
            step = tl.where(k < 2, step, length - 1 - step)
            position = first_row + tl.where(k % 2 == 0, step, step % height * width + step // height)
            in_tc, in_ts = in_t[:, None] & in_c[None, :], in_t[:, None] & in_s[None, :]
            at = position[:, None] * channels + channel[None, :]
            u = tl.load(x + at, mask=in_tc, other=0.0).to(h.dtype)
            line = projected + ((position * 4 + k) * (RANK + 2 * STATES))[:, None]
            code = tl.load(line + rank[None, :], mask=in_t[:, None] & in_r[None, :], other=0.0)
            b = tl.load(line + RANK + state[None, :], mask=in_ts, other=0.0).to(h.dtype)
            c = tl.load(line + RANK + STATES + state[None, :], mask=in_ts, other=0.0).to(h.dtype)
            delta = tl.dot(code, weights, input_precision="ieee", out_dtype=h.dtype) + shift[None, :]
            dt = step_sizes(delta, in_t, True)
            states = recur(tl.exp(dt[:, :, None] * matrix[None, :, :]), (dt * u)[:, :, None] * b[:, None, :], h)
            h = last_step(states)
            out = tl.sum(states * c[:, None, :], axis=2)
            if k == 0:
                out += u * skips[None, :]
            if k > first_k:
                out += tl.load(total + at, mask=in_tc, other=0.0)
            if DIRECTIONS == 1 or k < last_k:
                tl.store(total + at, out, mask=in_tc)
            else:
                tl.store(y + at, out, mask=in_tc)
            start += BLOCK_T
        tl.debug_barrier()  # the next direction loads sums that other threads of this program have stored
        k += 1


@torch.library.custom_op("eyeswap::ss2d_triton", mutates_args=())
def ss2d_triton(
    x: Tensor, projected: Tensor, weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, height: int, width: int
) -> Tensor:
    """Scan maps in four directions and add the results.

    Args:
        x: ``[B, L, D]``, ``L = height * width``.
        projected: ``[B, L, 4, R + 2*S]``: step-size code, B and C of every position and direction.
        weight: ``[4, D, R]``, in the dtype of ``projected``.
        bias: ``[4, D]``, float32 or float64, as ``a`` and ``skip``: the dtype of the state.
        a: ``[4, S, D]``.
        skip: ``[D]``, summed over the directions.
        height: rows of the map.
        width: columns of the map.

    Returns:
        ``[B, L, D]`` in the dtype of ``x``.
    """
    (batch, _, channels), (rank, states) = x.shape, (weight.shape[2], a.shape[1])
    x, projected, weight, bias, a, skip = (t.contiguous() for t in (x, projected, weight, bias, a, skip))
    block_t, block_c, block_s = tile_shape(states)
    programs = batch * triton.cdiv(channels, block_c)
    directions = 1 if programs < FEW_PROGRAMS else 4  # per program
    grid = (batch, triton.cdiv(channels, block_c), 4 // directions)
    y = torch.empty_like(x)
    if directions == 1:
        total = x.new_empty(4, *x.shape, dtype=a.dtype)
    else:
        total = y if x.dtype == a.dtype else torch.empty_like(x, dtype=a.dtype)
    with torch.cuda.device_of(x):
        _ss2d[grid](
            x, projected, weight, bias, a, skip, total, y, height, width, channels, rank, states, directions,
            block_t, block_c, max(16, triton.next_power_of_2(rank)), block_s,
            num_warps=warps(block_t * block_c * block_s, programs),
        )  # fmt: skip
    return total.sum(0).to(x.dtype) if directions == 1 else y


@ss2d_triton.register_fake
def _(
    x: Tensor, projected: Tensor, weight: Tensor, bias: Tensor, a: Tensor, skip: Tensor, height: int, width: int
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.height, ctx.width = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the step sizes, differentiate the general scan, then the product that gives the step sizes."""
    x, projected, weight, bias, a, skip = ctx.saved_tensors
    dtype, states = a.dtype, a.shape[1]
    order = cross_scan_order(ctx.height, ctx.width).to(x.device)
    u, gy = x.to(dtype), grad_y.to(dtype)
    code, b, c = projected.to(dtype).transpose(1, 2).split([weight.shape[2], states, states], dim=3)  # [B, 4, L, ...]
    delta = code @ weight.to(dtype).transpose(1, 2)  # [B, 4, L, D]
    gu, gdelta, ga, gb, gc, gbias = scan_triton_backward(
        gy[:, None], torch.zeros_like(a).expand(len(x), -1, -1, -1), u[:, None], delta, a, b, c, bias, order, True
    )
    gprojected = torch.cat([gdelta @ weight.to(dtype), gb, gc], dim=3).transpose(1, 2)
    gweight = (gdelta.transpose(2, 3) @ code).sum(0)
    gx, gskip = gu[:, 0] + gy * skip, (gy * u).sum((0, 1))
    return gx.to(x.dtype), gprojected.to(projected.dtype), gweight.to(weight.dtype), gbias, ga, gskip, None, None


ss2d_triton.register_autograd(_differentiate, setup_context=_save_inputs)
