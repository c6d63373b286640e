"""The gradient of the selective scan on a GPU: a Triton kernel.

With ``h[t] = decay[t] h[t-1] + dt[t] u[t] b[t]``, ``decay = exp(dt a)`` and ``y = c h``, the gradient that a step
passes to the previous state, ``w[t] = decay[t] (c[t] gy[t] + w[t+1])``, is a recurrence too, from the last step to the
first. With ``g[t] = c[t] gy[t] + w[t+1]``, the gradient of ``h[t]``, all others follow:

    g_dt = sum_s g h[t-1] decay a + u sum_s g b      g_u = dt sum_s g b      g_a = sum_t g h[t-1] decay dt
    g_b = sum_channels g dt u                        g_c = sum_channels gy h

A program has the direction and channels of its forward counterpart. It first scans forwards to store the state before
each tile, then takes the tiles from the last to the first: it recomputes states h in step order and gradients w in
reverse order (a scan over reversed indices), and writes both to memory, so that each step finds h of the previous and w
of the next step, which other threads hold. Sums over channels are written per block and added afterwards in a fixed
order; nothing is added atomically, so results are bit-identical every time.

Cost per channel at one step of one direction, float32:

- Reads: delta three times, u and grad_y twice, 28 B, the trail 8 S B, and 16 S + 24 B of B, C and order per block of
  channels. Writes: gradients of delta and u 8 B, the trail 8 S B, gradients of B and C 8 S B per block of channels. The
  trail of a tile is private to a program and takes 8 KB for one state, 35 KB for eight and 18 KB for sixteen, so its
  traffic stays in the caches; the states before the tiles add 4 S / T B each way.
- Tile: 32 steps x 32 channels for one state, 16 x 32 up to eight states, 8 x 16 above (`backward_tile`). Warps: one per
  1,024 elements of `LIVE_TILES` tiles, so four for one state and eight otherwise.
- Registers: states, gradients, decay, drive and their products of two scans, up to the 255 that a thread can have, so
  one or two programs run per multiprocessor. Two warps for one state spilled 0.5 KB, 16 steps for sixteen 10 B.
- Autotuning: none, so results do not depend on the machine. Worth trying on a GPU: 16 steps for one state, 16 channels,
  four to sixteen warps.
- In PTX, delta, u, grad_y, their gradients and the trail move 16 B per thread along the channels if a thread has so
  many elements of a row; orders are loaded by 8 B, one step at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from eyeswap.ops._triton_math import last_step, recur, softplus_slope, step_sizes, tile_shape, warps

LIVE_TILES = 4  # tiles of values that are live at once and must fit into the registers of a program


@triton.jit  # type: ignore[untyped-decorator]
def _backward(
    gy: tl.tensor, glast: tl.tensor, u: tl.tensor, delta: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor,
    bias: tl.tensor, order: tl.tensor, gu: tl.tensor, gdelta: tl.tensor, ga: tl.tensor, gb: tl.tensor, gc: tl.tensor,
    starts: tl.tensor, trail: tl.tensor,
    groups: tl.tensor, directions: tl.tensor, length: tl.tensor, channels: tl.tensor,
    STATES: tl.constexpr, USE_SOFTPLUS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
) -> None:  # fmt: skip
    image, k = tl.program_id(0).to(tl.int64) // directions, tl.program_id(0) % directions
    scan, group = image * directions + k, image * groups + k * groups // directions
    block = tl.program_id(1).to(tl.int64)
    scans = tl.num_programs(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, state = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S)
    in_c, in_s = channel < channels, state < STATES
    in_cs = in_c[:, None] & in_s[None, :]
    of_cs = (scan * STATES + state[None, :]) * channels + channel[:, None]
    matrix = tl.load(a + (k * STATES + state[None, :]) * channels + channel[:, None], mask=in_cs, other=0.0)
    shift = tl.load(bias + k * channels + channel, mask=in_c, other=0.0)
    tiles = (length + BLOCK_T - 1) // BLOCK_T

    # Memory private to this program: the state before each tile; for one tile h (steps -1 to T-1) and w (steps 0 to T).
    cell = tl.arange(0, BLOCK_C)[:, None] * BLOCK_S + state[None, :]
    PLANE: tl.constexpr = BLOCK_C * BLOCK_S
    starts += (scan * tl.num_programs(1) + block) * tiles * PLANE
    h_trail = trail + (scan * tl.num_programs(1) + block) * 2 * (BLOCK_T + 1) * PLANE
    w_trail = h_trail + (BLOCK_T + 1) * PLANE
    of_trail = row[:, None, None] * PLANE + cell[None, :, :]

    h = tl.zeros_like(matrix)
    tile = 0
    while tile < tiles:
        step = tile * BLOCK_T + row
        in_t = step < length
        p = tl.load(order + k * length + step, mask=in_t, other=0)
        in_tc, in_ts = in_t[:, None] & in_c[None, :], in_t[:, None] & in_s[None, :]
        at = (scan * length + p)[:, None]
        x = tl.load(delta + at * channels + channel[None, :], mask=in_tc, other=0.0) + shift[None, :]
        dt = step_sizes(x, in_t, USE_SOFTPLUS)
        u_t = tl.load(u + (group * length + p)[:, None] * channels + channel[None, :], mask=in_tc, other=0.0)
        b_t = tl.load(b + at * STATES + state[None, :], mask=in_ts, other=0.0)
        tl.store(starts + tile * PLANE + cell, h)
        states = recur(tl.exp(dt[:, :, None] * matrix[None, :, :]), (dt * u_t)[:, :, None] * b_t[:, None, :], h)
        h = last_step(states)
        tile += 1
    tl.debug_barrier()

    w = tl.load(glast + of_cs, mask=in_cs, other=0.0)
    g_matrix = tl.zeros_like(matrix)
    while tile > 0:
        tile -= 1
        # The gradients w, from the last step of the tile to its first.
        back = tile * BLOCK_T + BLOCK_T - 1 - row
        in_t = back < length
        p = tl.load(order + k * length + back, mask=in_t, other=0)
        in_tc, in_ts = in_t[:, None] & in_c[None, :], in_t[:, None] & in_s[None, :]
        at = (scan * length + p)[:, None]
        x = tl.load(delta + at * channels + channel[None, :], mask=in_tc, other=0.0) + shift[None, :]
        decay = tl.exp(step_sizes(x, in_t, USE_SOFTPLUS)[:, :, None] * matrix[None, :, :])
        gy_t = tl.load(gy + (group * length + p)[:, None] * channels + channel[None, :], mask=in_tc, other=0.0)
        c_t = tl.load(c + at * STATES + state[None, :], mask=in_ts, other=0.0)
        passed = recur(decay, decay * (gy_t[:, :, None] * c_t[:, None, :]), w)
        tl.store(w_trail + BLOCK_T * PLANE + cell, w)
        tl.store(w_trail + ((BLOCK_T - 1) * PLANE - row[:, None, None] * PLANE) + cell[None, :, :], passed)
        w = last_step(passed)

        # The states h, in step order.
        step = tile * BLOCK_T + row
        in_t = step < length
        p = tl.load(order + k * length + step, mask=in_t, other=0)
        in_tc, in_ts = in_t[:, None] & in_c[None, :], in_t[:, None] & in_s[None, :]
        at = (scan * length + p)[:, None]
        of_u = (group * length + p)[:, None] * channels + channel[None, :]
        x = tl.load(delta + at * channels + channel[None, :], mask=in_tc, other=0.0) + shift[None, :]
        dt = step_sizes(x, in_t, USE_SOFTPLUS)
        decay = tl.exp(dt[:, :, None] * matrix[None, :, :])
        u_t = tl.load(u + of_u, mask=in_tc, other=0.0)
        gy_t = tl.load(gy + of_u, mask=in_tc, other=0.0)
        b_t = tl.load(b + at * STATES + state[None, :], mask=in_ts, other=0.0)
        c_t = tl.load(c + at * STATES + state[None, :], mask=in_ts, other=0.0)
        h = tl.load(starts + tile * PLANE + cell)
        states = recur(decay, (dt * u_t)[:, :, None] * b_t[:, None, :], h)
        tl.store(h_trail + cell, h)
        tl.store(h_trail + PLANE + of_trail, states)
        tl.debug_barrier()  # threads load what other threads have stored

        g = gy_t[:, :, None] * c_t[:, None, :] + tl.load(w_trail + PLANE + of_trail)
        through = g * decay * tl.load(h_trail + of_trail)  # gradient of dt * a
        g_matrix += tl.sum(through * dt[:, :, None], axis=0)
        g_drive = tl.sum(g * b_t[:, None, :], axis=2)  # gradient of dt * u
        g_dt = tl.sum(through * matrix[None, :, :], axis=2) + g_drive * u_t
        if USE_SOFTPLUS:
            g_dt *= softplus_slope(x)
        tl.store(gdelta + at * channels + channel[None, :], g_dt, mask=in_tc)
        tl.store(gu + at * channels + channel[None, :], g_drive * dt, mask=in_tc)
        of_bc = (block * scans * length + at) * STATES + state[None, :]
        tl.store(gb + of_bc, tl.sum(g * (dt * u_t)[:, :, None], axis=1), mask=in_ts)
        tl.store(gc + of_bc, tl.sum(states * gy_t[:, :, None], axis=1), mask=in_ts)
        tl.debug_barrier()  # the next tile reuses this memory
    tl.store(ga + of_cs, g_matrix, mask=in_cs)


def backward_tile(states: int) -> tuple[int, int, int]:
    """Return the steps, channels and states of a tile: as forward, with half the steps above eight states."""
    steps, channels, padded = tile_shape(states)
    return steps // 2 if states > 8 else steps, channels, padded


@torch.library.custom_op("eyeswap::selective_scan_triton_backward", mutates_args=())
def scan_triton_backward(
    grad_y: Tensor, grad_last: Tensor,
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of ``u``, ``delta``, ``a``, ``b``, ``c`` and ``bias``, each in its input's shape."""
    batch, directions, length, channels = delta.shape
    groups, states = u.shape[1], a.shape[1]
    block_t, block_c, block_s = backward_tile(states)
    grid = (batch * directions, triton.cdiv(channels, block_c))
    gu, gdelta = (u.new_empty(delta.shape) for _ in range(2))
    ga = u.new_empty(batch, *a.shape)
    gb, gc = (u.new_empty(grid[1], *b.shape) for _ in range(2))
    starts = u.new_empty(*grid, triton.cdiv(length, block_t), block_c, block_s)
    trail = u.new_empty(*grid, 2, block_t + 1, block_c, block_s)
    inputs = (tensor.contiguous() for tensor in (grad_y, grad_last, u, delta, a, b, c, bias, order))
    with torch.cuda.device_of(u):
        _backward[grid](
            *inputs, gu, gdelta, ga, gb, gc, starts, trail,
            groups, directions, length, channels, states, softplus, block_t, block_c, block_s,
            num_warps=warps(LIVE_TILES * block_t * block_c * block_s, grid[0] * grid[1]),
        )  # fmt: skip
    gu = gu if groups == directions else gu.sum(1, keepdim=True)
    return gu, gdelta, ga.sum(0), gb.sum(0), gc.sum(0), gdelta.sum((0, 2))


@scan_triton_backward.register_fake
def _(
    grad_y: Tensor, grad_last: Tensor,
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    gu, gdelta, ga, gb, gc, gbias = (t.new_empty(t.shape) for t in (u, delta, a, b, c, bias))
    return gu, gdelta, ga, gb, gc, gbias
