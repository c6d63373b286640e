"""The selective scan on a CPU: numba kernels, forward and hand-written backward, for float32 and float64.

Both kernels walk K directions over the same rows in place: direction k visits row ``order[k, t]`` at step t, so
the four scans of an image need neither four copies of it nor a merge. Arrays are channels-last, channels in N
blocks of W; the inner loops run over the W channels of one block, which vectorises:

    u, y     [B, G, L, N, W]   G = K: each direction has its own channels; G = 1: all share them, y sums them
    delta    [B, K, L, N, W]   before bias and softplus          b, c         [B, K, L, S]
    a        [K, S, N, W]      order  [K, L]                     skip, bias   [K, N, W]

One task is one image, one group and one block; tasks share nothing that they write, so results do not depend on
the number of threads. The backward keeps only the inputs: states are computed again from checkpoints.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from eyeswap.ops._numba_math import exp, sigmoid, softplus

W = 32  # channels of a block: two cache lines of float32
SEGMENT = 32  # steps between two checkpoints of the backward


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
def _copy(target: Any, source: Any) -> None:
    """Copy a row; numba's slice assignment would do it too, but takes seconds to compile."""
    for d in range(W):
        target[d] = source[d]


@_kernel()
def _copy_state(target: Any, source: Any) -> None:
    for s in range(target.shape[0]):
        _copy(target[s], source[s])


@_kernel()
def _add(total: Any, x: Any) -> None:
    for d in range(W):
        total[d] += x[d]


@_kernel()
def _add_product(total: Any, x: Any, y: Any) -> None:
    for d in range(W):
        total[d] += x[d] * y[d]


@_kernel(fastmath={"reassoc", "contract"})
def _dot(x: Any, y: Any) -> Any:
    """Return the dot product; the compiler may reorder the sum, which leaves NaN and inf alone."""
    total = x[0] * y[0]
    for d in range(1, W):
        total += x[d] * y[d]
    return total


@_kernel()
def _step_size(dt: Any, delta: Any, bias: Any, use_softplus: bool) -> None:
    """Write the step size of one row: softplus(delta + bias), or delta + bias."""
    if use_softplus:
        for d in range(W):
            dt[d] = softplus(delta[d] + bias[d])
    else:
        for d in range(W):
            dt[d] = delta[d] + bias[d]


@_kernel()
def _advance(after: Any, before: Any, dt: Any, a: Any, u: Any, b: Any) -> None:
    """Move one state component one step: exp(dt a) h + dt u b."""
    for d in range(W):
        after[d] = exp(dt[d] * a[d]) * before[d] + dt[d] * u[d] * b


@_kernel()
def _advance_and_read(h: Any, y: Any, dt: Any, a: Any, u: Any, b: Any, c: Any) -> None:
    """Move one state component one step and add what it contributes to the output."""
    for d in range(W):
        state = exp(dt[d] * a[d]) * h[d] + dt[d] * u[d] * b
        h[d] = state
        y[d] += c * state


@_kernel()
def _forward(
    first: int, stop: int, u: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any, bias: Any, order: Any,
    use_softplus: bool, y: Any, last: Any,
) -> None:  # fmt: skip
    """Run the tasks ``first`` to ``stop``: scan each one's block of one group of one image, in all its directions."""
    groups, blocks = u.shape[1], u.shape[3]
    directions = a.shape[0] // groups
    dt = np.empty(W, u.dtype)
    for task in range(first, stop):
        image, group, n = task // (groups * blocks), task // blocks % groups, task % blocks
        for k in range(group * directions, (group + 1) * directions):
            for t in range(order.shape[1]):
                p = order[k, t]
                u_row, y_row = u[image, group, p, n], y[image, group, p, n]
                _step_size(dt, delta[image, k, p, n], bias[k, n], use_softplus)
                _add_product(y_row, u_row, skip[k, n])
                for s in range(a.shape[1]):
                    _advance_and_read(
                        last[image, k, s, n], y_row, dt, a[k, s, n], u_row, b[image, k, p, s], c[image, k, p, s]
                    )


@_kernel()
def _recompute(
    trail: Any, steps: Any, begin: int, end: int, image: int, group: int, k: int, n: int,
    u: Any, delta: Any, a: Any, b: Any, bias: Any, order: Any, use_softplus: bool,
) -> None:  # fmt: skip
    """Fill ``trail[i + 1]`` with the state after step ``begin + i``, starting from ``trail[0]``."""
    for t in range(begin, end):
        p = order[k, t]
        i = t - begin
        _step_size(steps[i], delta[image, k, p, n], bias[k, n], use_softplus)
        for s in range(a.shape[1]):
            _advance(trail[i + 1, s], trail[i, s], steps[i], a[k, s, n], u[image, group, p, n], b[image, k, p, s])


@_kernel()
def _reverse_component(
    g: Any, q: Any, carry: Any, gdt: Any, gdu: Any, ga: Any, gy: Any, h: Any, dt: Any, a: Any, b: Any, c: Any
) -> None:
    """Move one state component one step back, from ``h``, the state before the step; leave its gradient in ``g``."""
    for d in range(W):
        g[d] = c * gy[d] + carry[d]
        carry[d] = exp(dt[d] * a[d]) * g[d]
        q[d] = carry[d] * h[d]  # gradient of dt * a
    _add_product(gdt, q, a)
    _add_product(ga, q, dt)
    for d in range(W):
        gdu[d] += g[d] * b


@_kernel()
def _reverse_step(
    gdt: Any, gdu: Any, scratch: Any, carry: Any, before: Any, after: Any, dt: Any, u: Any, gy: Any,
    a: Any, b: Any, c: Any, ga: Any, gb: Any, gc: Any, n: int,
) -> None:  # fmt: skip
    """Move all state components one step back; leave the gradients of dt and of dt * u in ``gdt`` and ``gdu``."""
    g, q, du = scratch[0], scratch[1], scratch[2]
    for d in range(W):
        gdt[d] = 0
        gdu[d] = 0
        du[d] = dt[d] * u[d]
    for s in range(a.shape[0]):
        _reverse_component(g, q, carry[s], gdt, gdu, ga[s, n], gy, before[s], dt, a[s, n], b[s], c[s])
        gb[s] = _dot(g, du)
        gc[s] = _dot(gy, after[s])


@_kernel()
def _finish_row(
    gdt: Any, gdu: Any, dt: Any, u: Any, gy: Any, delta: Any, skip: Any, bias: Any, use_softplus: bool,
    gu: Any, gdelta: Any, gskip: Any, gbias: Any,
) -> None:  # fmt: skip
    """Turn the gradients of dt and dt * u into those of one row's inputs."""
    _add_product(gdt, gdu, u)
    if use_softplus:
        for d in range(W):
            gdt[d] *= sigmoid(delta[d] + bias[d])
    _copy(gdelta, gdt)
    _add(gbias, gdt)
    _add_product(gskip, gy, u)
    _add_product(gu, gdu, dt)
    _add_product(gu, gy, skip)


@_kernel()
def _backward(
    first: int, stop: int, u: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any, bias: Any, order: Any,
    use_softplus: bool, gy: Any, glast: Any,
    gu: Any, gdelta: Any, ga: Any, gb: Any, gc: Any, gskip: Any, gbias: Any,
) -> None:  # fmt: skip
    """Run the tasks ``first`` to ``stop``: the gradients of each one's block of one group of one image."""
    groups, blocks, states, length = u.shape[1], u.shape[3], a.shape[1], order.shape[1]
    directions = a.shape[0] // groups
    segments = (length + SEGMENT - 1) // SEGMENT
    checkpoints = np.zeros((segments + 1, states, W), u.dtype)
    trail = np.zeros((SEGMENT + 1, states, W), u.dtype)
    steps = np.empty((SEGMENT, W), u.dtype)
    carry = np.empty((states, W), u.dtype)  # gradient that reaches the state from later steps
    scratch = np.empty((5, W), u.dtype)
    gdt, gdu = scratch[3], scratch[4]
    for task in range(first, stop):
        image, group, n = task // (groups * blocks), task // blocks % groups, task % blocks
        for k in range(group * directions, (group + 1) * directions):
            for segment in range(segments):
                begin, end = segment * SEGMENT, min((segment + 1) * SEGMENT, length)
                _copy_state(trail[0], checkpoints[segment])
                _recompute(trail, steps, begin, end, image, group, k, n, u, delta, a, b, bias, order, use_softplus)
                _copy_state(checkpoints[segment + 1], trail[end - begin])
            for s in range(states):
                _copy(carry[s], glast[image, k, s, n])
            for segment in range(segments - 1, -1, -1):
                begin, end = segment * SEGMENT, min((segment + 1) * SEGMENT, length)
                if segment < segments - 1:  # the trail of the last one is still there
                    _copy_state(trail[0], checkpoints[segment])
                    _recompute(trail, steps, begin, end, image, group, k, n, u, delta, a, b, bias, order, use_softplus)
                for t in range(end - 1, begin - 1, -1):
                    p = order[k, t]
                    i = t - begin
                    u_row, gy_row = u[image, group, p, n], gy[image, group, p, n]
                    _reverse_step(
                        gdt, gdu, scratch, carry, trail[i], trail[i + 1], steps[i], u_row, gy_row,
                        a[k], b[image, k, p], c[image, k, p], ga[image, k], gb[n, image, k, p], gc[n, image, k, p], n,
                    )  # fmt: skip
                    _finish_row(
                        gdt, gdu, steps[i], u_row, gy_row, delta[image, k, p, n], skip[k, n], bias[k, n], use_softplus,
                        gu[image, group, p, n], gdelta[image, k, p, n], gskip[image, k, n], gbias[image, k, n],
                    )  # fmt: skip


@functools.cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Return the worker threads of this process; a forked child has another id, hence threads of its own."""
    return ThreadPoolExecutor(workers, thread_name_prefix="eyeswap-scan")


def _run(kernel: Callable[..., None], threads: int, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    """Share the tasks out to threads in equal runs.

    numba's own thread pools are avoided: the OpenMP one spins beside torch's and slows torch down twentyfold on a
    busy machine, and the plain one must not be entered by two threads at once.
    """
    batch, groups, _, blocks, _ = inputs[0].shape
    tasks = batch * groups * blocks
    threads = max(1, min(threads, tasks))
    bounds = [tasks * i // threads for i in range(threads + 1)]
    runs = [
        _pool(os.getpid(), threads - 1).submit(kernel, first, last, *inputs, *outputs)
        for first, last in itertools.pairwise(bounds[1:])
    ]
    kernel(0, bounds[1], *inputs, *outputs)
    for run in runs:
        run.result()


def forward(threads: int, *inputs: Any) -> tuple[Any, Any]:
    """Return ``(y, last_state [B, K, S, N, W])`` for ``(u, delta, a, b, c, skip, bias, order, use_softplus)``."""
    u, delta, a = inputs[:3]
    y = np.zeros(u.shape, u.dtype)
    last = np.zeros((delta.shape[0], *a.shape), u.dtype)
    _run(_forward, threads, inputs, (y, last))
    return y, last


def backward(threads: int, grad_y: Any, grad_last: Any, *inputs: Any) -> tuple[Any, ...]:
    """Return the gradients of u, delta, a, b, c, skip and bias."""
    u, delta, a, b, _, skip = inputs[:6]
    gu, gdelta = np.zeros(u.shape, u.dtype), np.empty(delta.shape, u.dtype)
    ga = np.zeros((u.shape[0], *a.shape), u.dtype)
    gb, gc = np.empty((2, u.shape[3], *b.shape), u.dtype)
    gskip, gbias = np.zeros((2, u.shape[0], *skip.shape), u.dtype)
    _run(_backward, threads, inputs, (grad_y, grad_last, gu, gdelta, ga, gb, gc, gskip, gbias))
    return gu, gdelta, ga.sum(0), gb.sum(0), gc.sum(0), gskip.sum(0), gbias.sum(0)
