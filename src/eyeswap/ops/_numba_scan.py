"""The selective scan on a CPU: numba kernels, forward and hand-written backward, for float32 and float64.

Both kernels walk K directions over the same rows in place: direction k visits row ``order[k, t]`` at step t, so
the four scans of an image need neither four copies of it nor a merge. All arrays are channels-last:

    u, y        [B, G, L, C]   G = K: every direction has its own channels; G = 1: all share them and y sums them
    delta       [B, K, L, C]   before bias and softplus
    B, C        [B, K, L, S]   (called ``b``, ``c`` here)
    a           [K, S, C]      skip, bias [K, C]      order [K, L]

One task is one image, one group and one block of channels; tasks share nothing they write, and blocks have a fixed
size, so results do not depend on the number of threads. The inner loops run over channels, which vectorises.
The backward keeps only the inputs: states are computed again, segment by segment, from checkpoints.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from eyeswap.ops._numba_math import exp, sigmoid, softplus

BLOCK = 32  # channels of one task: two cache lines of float32
SEGMENT = 32  # steps between two checkpoints of the backward
LOCK = threading.Lock()  # numba's plain thread pool must not be entered twice at the same time


def _kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile with numba on first use; keep the machine code beside the source, or in memory if that is read-only."""

    def decorate(function: Callable[..., Any]) -> Any:
        settings = {"error_model": "numpy", "nogil": True, **options}
        try:
            return njit(cache=True, **settings)(function)
        except RuntimeError:  # numba finds no writable place for its cache
            return njit(**settings)(function)

    return decorate


@_kernel()
def _step_size(dt: Any, delta: Any, bias: Any, use_softplus: bool, width: int) -> None:
    """Write the step size of one row: softplus(delta + bias), or delta + bias."""
    if use_softplus:
        for d in range(width):
            dt[d] = softplus(delta[d] + bias[d])
    else:
        for d in range(width):
            dt[d] = delta[d] + bias[d]


@_kernel()
def _add_product(total: Any, x: Any, y: Any, width: int) -> None:
    for d in range(width):
        total[d] += x[d] * y[d]


@_kernel()
def _add(total: Any, x: Any, width: int) -> None:
    for d in range(width):
        total[d] += x[d]


@_kernel()
def _multiply_by_sigmoid(total: Any, delta: Any, bias: Any, width: int) -> None:
    for d in range(width):
        total[d] *= sigmoid(delta[d] + bias[d])


@_kernel(fastmath={"reassoc", "contract"})
def _dot(x: Any, y: Any, width: int) -> Any:
    """Return the dot product; the sum may be reordered by the compiler, which leaves NaN and inf alone."""
    total = x[0] * y[0]
    for d in range(1, width):
        total += x[d] * y[d]
    return total


@_kernel()
def _locate(task: int, u: Any) -> tuple[int, int, int, int]:
    """Return image, group, first channel and channel after the last, of a task."""
    blocks = (u.shape[3] + BLOCK - 1) // BLOCK
    image, rest = divmod(task, u.shape[1] * blocks)
    group, block = divmod(rest, blocks)
    return image, group, block * BLOCK, min((block + 1) * BLOCK, u.shape[3])


@_kernel()
def _advance(after: Any, before: Any, dt: Any, a: Any, u: Any, b: Any, width: int) -> None:
    """Move one state component one step: exp(dt a) h + dt b u."""
    for d in range(width):
        after[d] = exp(dt[d] * a[d]) * before[d] + dt[d] * u[d] * b


@_kernel()
def _advance_and_read(h: Any, y: Any, dt: Any, a: Any, u: Any, b: Any, c: Any, width: int) -> None:
    """Move one state component one step and add what it contributes to the output."""
    for d in range(width):
        state = exp(dt[d] * a[d]) * h[d] + dt[d] * u[d] * b
        h[d] = state
        y[d] += c * state


@_kernel()
def _forward_task(
    task: int, u: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any, bias: Any, order: Any, use_softplus: bool,
    y: Any, last: Any,
) -> None:  # fmt: skip
    """Scan one block of channels of one group of one image, in all directions of the group."""
    image, group, first, stop = _locate(task, u)
    width = stop - first
    directions = a.shape[0] // u.shape[1]
    dt = np.empty(BLOCK, u.dtype)
    for k in range(group * directions, (group + 1) * directions):
        h = last[image, k]  # [S, C]
        for t in range(order.shape[1]):
            p = order[k, t]
            u_row = u[image, group, p, first:stop]
            y_row = y[image, group, p, first:stop]
            _step_size(dt, delta[image, k, p, first:stop], bias[k, first:stop], use_softplus, width)
            _add_product(y_row, u_row, skip[k, first:stop], width)
            for s in range(a.shape[1]):
                _advance_and_read(
                    h[s, first:stop], y_row, dt, a[k, s, first:stop], u_row, b[image, k, p, s], c[image, k, p, s], width
                )


@_kernel(parallel=True)
def _forward(
    tasks: int, u: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any, bias: Any, order: Any, use_softplus: bool,
    y: Any, last: Any,
) -> None:  # fmt: skip
    for task in prange(tasks):
        _forward_task(np.int64(task), u, delta, a, b, c, skip, bias, order, use_softplus, y, last)


@_kernel()
def _reverse_component(
    g: Any, q: Any, carry: Any, gdt: Any, gdu: Any, ga: Any, gy: Any, h: Any, dt: Any, a: Any, b: Any, c: Any, width: int
) -> None:  # fmt: skip
    """Move one state component one step back, from ``h``, the state before the step; leave its gradient in ``g``."""
    for d in range(width):
        g[d] = c * gy[d] + carry[d]
        carry[d] = exp(dt[d] * a[d]) * g[d]
        q[d] = carry[d] * h[d]  # gradient of dt * a
    _add_product(gdt, q, a, width)
    _add_product(ga, q, dt, width)
    for d in range(width):
        gdu[d] += g[d] * b


@_kernel()
def _reverse_step(
    u: Any, a: Any, b: Any, c: Any, gy: Any, before: Any, after: Any, dt: Any, carry: Any, scratch: Any,
    ga: Any, gb: Any, gc: Any, first: int, width: int,
) -> None:  # fmt: skip
    """Move all state components one step back; leaves the gradients of dt and of dt*u in ``scratch[:2]``."""
    gdt, gdu, g, q, du = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    for d in range(width):
        gdt[d] = 0
        gdu[d] = 0
        du[d] = dt[d] * u[d]
    for s in range(a.shape[0]):
        _reverse_component(
            g, q, carry[s], gdt, gdu, ga[s, first : first + width], gy, before[s], dt, a[s, first : first + width],
            b[s], c[s], width,
        )  # fmt: skip
        gb[s] = _dot(g, du, width)
        gc[s] = _dot(gy, after[s], width)


@_kernel()
def _recompute(
    trail: Any, steps: Any, begin: int, end: int, k: int, image: int, group: int, first: int, width: int,
    u: Any, delta: Any, a: Any, b: Any, bias: Any, order: Any, use_softplus: bool,
) -> None:  # fmt: skip
    """Fill ``trail[i + 1]`` with the state after step ``begin + i``, starting from ``trail[0]``."""
    stop = first + width
    for t in range(begin, end):
        p = order[k, t]
        i = t - begin
        _step_size(steps[i], delta[image, k, p, first:stop], bias[k, first:stop], use_softplus, width)
        for s in range(a.shape[1]):
            _advance(
                trail[i + 1, s], trail[i, s], steps[i], a[k, s, first:stop], u[image, group, p, first:stop],
                b[image, k, p, s], width,
            )  # fmt: skip


@_kernel()
def _backward_task(
    task: int, u: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any, bias: Any, order: Any, use_softplus: bool,
    gy: Any, glast: Any, gu: Any, gdelta: Any, ga: Any, gb: Any, gc: Any, gskip: Any, gbias: Any,
) -> None:  # fmt: skip
    """Gradients of one block of channels of one group of one image, over all directions of the group."""
    image, group, first, stop = _locate(task, u)
    width, block, states, length = stop - first, first // BLOCK, a.shape[1], order.shape[1]
    directions = a.shape[0] // u.shape[1]
    segments = (length + SEGMENT - 1) // SEGMENT
    checkpoints = np.zeros((segments + 1, states, BLOCK), u.dtype)
    trail = np.zeros((SEGMENT + 1, states, BLOCK), u.dtype)
    steps = np.empty((SEGMENT, BLOCK), u.dtype)
    carry = np.empty((states, BLOCK), u.dtype)  # gradient that reaches the state from later steps
    scratch = np.empty((5, BLOCK), u.dtype)
    for k in range(group * directions, (group + 1) * directions):
        for segment in range(segments):
            begin, end = segment * SEGMENT, min((segment + 1) * SEGMENT, length)
            trail[0] = checkpoints[segment]
            _recompute(
                trail, steps, begin, end, k, image, group, first, width, u, delta, a, b, bias, order, use_softplus
            )
            checkpoints[segment + 1] = trail[end - begin]
        carry[:, :width] = glast[image, k, :, first:stop]
        for segment in range(segments - 1, -1, -1):
            begin, end = segment * SEGMENT, min((segment + 1) * SEGMENT, length)
            if segment < segments - 1:  # the last one is still there
                trail[0] = checkpoints[segment]
                _recompute(
                    trail, steps, begin, end, k, image, group, first, width, u, delta, a, b, bias, order, use_softplus
                )
            for t in range(end - 1, begin - 1, -1):
                p = order[k, t]
                u_row, gy_row = u[image, group, p, first:stop], gy[image, group, p, first:stop]
                dt = steps[t - begin]
                _reverse_step(
                    u_row, a[k], b[image, k, p], c[image, k, p], gy_row, trail[t - begin], trail[t - begin + 1], dt,
                    carry, scratch, ga[image, k], gb[block, image, k, p], gc[block, image, k, p], first, width,
                )  # fmt: skip
                gdt, gdu = scratch[0], scratch[1]
                _add_product(gdt, gdu, u_row, width)
                if use_softplus:
                    _multiply_by_sigmoid(gdt, delta[image, k, p, first:stop], bias[k, first:stop], width)
                gdelta[image, k, p, first:stop] = gdt[:width]
                _add(gbias[image, k, first:stop], gdt, width)
                _add_product(gskip[image, k, first:stop], gy_row, u_row, width)
                _add_product(gu[image, group, p, first:stop], gdu, dt, width)
                _add_product(gu[image, group, p, first:stop], gy_row, skip[k, first:stop], width)


@_kernel(parallel=True)
def _backward(
    tasks: int, u: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any, bias: Any, order: Any, use_softplus: bool,
    gy: Any, glast: Any, gu: Any, gdelta: Any, ga: Any, gb: Any, gc: Any, gskip: Any, gbias: Any,
) -> None:  # fmt: skip
    for task in prange(tasks):
        _backward_task(
            np.int64(task), u, delta, a, b, c, skip, bias, order, use_softplus,
            gy, glast, gu, gdelta, ga, gb, gc, gskip, gbias,
        )  # fmt: skip


def _run(kernel: Callable[..., None], threads: int, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    u = inputs[0]
    tasks = u.shape[0] * u.shape[1] * -(-u.shape[3] // BLOCK)
    with LOCK:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        kernel(tasks, *inputs, *outputs)


def forward(threads: int, *inputs: Any) -> tuple[Any, Any]:
    """Return ``(y, last_state [B, K, S, C])`` for ``(u, delta, a, b, c, skip, bias, order, use_softplus)``."""
    u, delta, a = inputs[:3]
    y = np.zeros(u.shape, u.dtype)
    last = np.zeros((delta.shape[0], *a.shape), u.dtype)
    _run(_forward, threads, inputs, (y, last))
    return y, last


def backward(threads: int, grad_y: Any, grad_last: Any, *inputs: Any) -> tuple[Any, ...]:
    """Return the gradients of u, delta, a, b, c, skip and bias."""
    u, delta, a, b = inputs[:4]
    batch, blocks = u.shape[0], -(-u.shape[3] // BLOCK)
    gu, gdelta = np.zeros(u.shape, u.dtype), np.empty(delta.shape, u.dtype)
    ga = np.zeros((batch, *a.shape), u.dtype)
    gb, gc = np.empty((2, blocks, *b.shape), u.dtype)
    gskip, gbias = np.zeros((2, batch, a.shape[0], a.shape[2]), u.dtype)
    _run(_backward, threads, inputs, (grad_y, grad_last, gu, gdelta, ga, gb, gc, gskip, gbias))
    return gu, gdelta, ga.sum(0), gb.sum(0), gc.sum(0), gskip.sum(0), gbias.sum(0)
