"""The forward selective scan on a CPU: a numba kernel for float32 and float64, and how its tasks are run.

The kernel scans K directions over the same rows in place: direction k visits row ``order[k, t]`` at step t, so the four
scans of an image need neither four copies of it nor a merge. Arrays are channels-last, channels in N blocks of W, which
is 32 or 64; the inner loops run over the W channels of one block:

    u, y     [B, G, L, N, W]   G = K: each direction has its own channels; G = 1: all share them, y is their sum
    delta    [B, K, L, N, W]   before bias and softplus          b, c    [B, K, L, S]
    a        [K, S, N, W]      bias  [K, N, W]                   order   [K, L]

One task is one image, one group and one block; no two tasks write to the same memory, so results do not depend on the
number of threads.

The inner loops are written so that LLVM vectorises them: the values of the current step are rows of one work array,
LANES apart (constant distances need no aliasing checks); offsets are unsigned (numba tests signed indices for their
sign); nothing is sliced (slices are reference-counted); helpers are inlined (an array is passed as many arguments); and
the trip count is a multiple of 32 that is known only at run time (a constant would be unrolled before vectorisation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from eyeswap.ops._numba_math import exp, kernel, softplus
from eyeswap.ops._threads import share_out

LANES = 64  # length of a work row, the widest block
MULTIPLE_OF_32 = np.uint64(2**64 - 32)


def rows(count: int) -> list[Any]:
    """Return the offsets of the first ``count`` work rows."""
    return [np.uint64(LANES * row) for row in range(count)]


DT, DU, WORK = rows(3)  # work array: step size and drive dt * u; WORK is its size
H, A, STATE = rows(3)  # per state component: state and matrix; STATE is their size


@kernel(forceinline=True)
def lanes(width: int) -> Any:
    """Return ``width``, telling LLVM that it is a multiple of 32: vector loops then need no remainder loop."""
    return np.uint64(width) & MULTIPLE_OF_32


@kernel(forceinline=True)
def drive(
    target: Any, o: int, bias: Any, u: Any, delta: Any, place: Any, p: int, use_softplus: bool, width: int
) -> None:
    """Write the step size dt = softplus(delta + bias) of row ``p`` (or delta + bias) and the drive dt * u."""
    image, group, k, n = place
    for d in range(lanes(width)):
        x = delta[image, k, p, n, d] + bias[k, n, d]
        dt = softplus(x) if use_softplus else x
        target[o + DT + d] = dt
        target[o + DU + d] = dt * u[image, group, p, n, d]


@kernel(forceinline=True)
def _advance(states: Any, o: int, work: Any, y: Any, place: Any, p: int, b: Any, c: Any, width: int) -> None:
    """Advance one state component by one step, h = exp(dt a) h + dt u b, and add c h to the output."""
    image, group, _, n = place
    for d in range(lanes(width)):
        h = exp(work[DT + d] * states[o + A + d]) * states[o + H + d] + work[DU + d] * b
        states[o + H + d] = h
        y[image, group, p, n, d] += c * h


@kernel()
def _forward(
    first: int, stop: int, u: Any, delta: Any, a: Any, b: Any, c: Any, bias: Any, order: Any,
    use_softplus: bool, y: Any, last: Any,
) -> None:  # fmt: skip
    """Run tasks ``first`` to ``stop``: scan each task's block in all directions of its group."""
    groups, blocks, width, components = u.shape[1], u.shape[3], u.shape[4], np.uint64(a.shape[1])
    directions = a.shape[0] // groups
    work = np.empty(WORK, u.dtype)
    states = np.empty(components * STATE, u.dtype)
    for task in range(first, stop):
        image, group, n = task // (groups * blocks), task // blocks % groups, task % blocks
        for k in range(group * directions, (group + 1) * directions):
            place = (image, group, k, n)
            for s in range(components):
                for d in range(lanes(width)):
                    states[s * STATE + A + d] = a[k, s, n, d]
                    states[s * STATE + H + d] = 0
            for t in range(order.shape[1]):
                p = order[k, t]
                drive(work, np.uint64(0), bias, u, delta, place, p, use_softplus, width)
                for s in range(components):
                    _advance(states, s * STATE, work, y, place, p, b[image, k, p, s], c[image, k, p, s], width)
            for s in range(components):
                for d in range(lanes(width)):
                    last[image, k, s, n, d] = states[s * STATE + H + d]


def run(function: Callable[..., None], inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    """Run all tasks of a kernel: images x groups x blocks."""
    batch, groups, _, blocks, _ = inputs[0].shape
    share_out(lambda first, stop: function(first, stop, *inputs, *outputs), batch * groups * blocks)


def block_width(channels: int) -> int:
    """Return the block width W for a number of channels: 64, or 32 if that pads fewer channels."""
    return 32 if -(-channels // 32) % 2 else 64


def forward(*inputs: Any) -> tuple[Any, Any]:
    """Return ``(y, last_state [B, K, S, N, W])`` of ``(u, delta, a, b, c, bias, order, use_softplus)``."""
    u, delta, a = inputs[:3]
    y = np.zeros(u.shape, u.dtype)
    last = np.empty((delta.shape[0], *a.shape), u.dtype)
    run(_forward, inputs, (y, last))
    return y, last
