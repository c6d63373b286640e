"""The selective scan on a CPU: numba kernels, forward and hand-written backward, for float32 and float64.

Both kernels walk K directions over the same rows in place: direction k visits row ``order[k, t]`` at step t, so
the four scans of an image need neither four copies of it nor a merge. Arrays are channels-last, channels in N
blocks of W, which is 32 or 64; the inner loops run over the W channels of one block, which vectorises:

    u, y     [B, G, L, N, W]   G = K: each direction has its own channels; G = 1: all share them, y sums them
    delta    [B, K, L, N, W]   before bias and softplus          b, c    [B, K, L, S]
    a        [K, S, N, W]      bias  [K, N, W]                   order   [K, L]

One task is one image, one group and one block; tasks share nothing that they write, so results do not depend on
the number of threads. The backward keeps only the inputs: states are computed again from checkpoints.

How the inner loops are written, so that LLVM vectorises them: values of the current step lie in rows of one work
array, LANES apart (constant distances need no aliasing checks); nothing is sliced (a slice counts references); and
the trip count is a multiple of 32 that is not known before run time (a constant one is unrolled into scalars).
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

LANES = 64  # length of a work row: the widest block
SEGMENT = 32  # steps between two checkpoints of the backward
MULTIPLE_OF_32 = np.uint64(2**64 - 32)


def _rows(count: int) -> list[Any]:
    """Return the offsets of rows of LANES values; unsigned, because a sign makes numba test every index for it."""
    return [np.uint64(LANES * row) for row in range(count)]


BIAS, DT, DU, U, GY, SLOPE, GDT, GDU, PRODUCT_B, PRODUCT_C, WORK = _rows(11)  # of a step's work array
H, A, CARRY, GA, STATE = _rows(5)  # of one state component
TRAIL_DT, TRAIL_DU, TRAIL_STATES = _rows(3)  # of one step of the trail, before its state components
DECAY, AFTER, COMPONENT = _rows(3)  # of one state component in the trail


def _kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile with numba on first use; keep the machine code beside the source, or in memory if that is read-only.

    Fused multiply-add is allowed: it rounds once instead of twice and leaves NaN and inf alone.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        settings = {"error_model": "numpy", "nogil": True, "fastmath": {"contract"}, **options}
        try:
            return njit(cache=True, **settings)(function)
        except RuntimeError:  # numba finds no writable place for its cache
            return njit(**settings)(function)

    return decorate


@_kernel(forceinline=True)
def _multiple(width: int) -> Any:
    return np.uint64(width) & MULTIPLE_OF_32


@_kernel(forceinline=True, fastmath={"contract", "reassoc"})
def _sum(work: Any, row: int, width: int) -> Any:
    """Add up a row; the compiler may reorder the sum, which leaves NaN and inf alone."""
    total = work.dtype.type(0)
    for d in range(_multiple(width)):
        total += work[row + d]
    return total


@_kernel(forceinline=True)
def _load_block(work: Any, states: Any, a: Any, bias: Any, k: int, n: int, width: int) -> None:
    """Fetch what stays the same for all steps, and start from the zero state."""
    for d in range(_multiple(width)):
        work[BIAS + d] = bias[k, n, d]
    for s in range(np.uint64(a.shape[1])):
        for d in range(_multiple(width)):
            states[s * STATE + A + d] = a[k, s, n, d]
            states[s * STATE + H + d] = 0


@_kernel(forceinline=True)
def _drive(
    work: Any, u: Any, delta: Any, image: int, group: int, k: int, p: int, n: int, use_softplus: bool, width: int
) -> None:
    """Compute the step size dt = softplus(delta + bias) of one row, or delta + bias, and the drive dt * u."""
    if use_softplus:
        for d in range(_multiple(width)):
            dt = softplus(delta[image, k, p, n, d] + work[BIAS + d])
            work[DT + d] = dt
            work[DU + d] = dt * u[image, group, p, n, d]
    else:
        for d in range(_multiple(width)):
            dt = delta[image, k, p, n, d] + work[BIAS + d]
            work[DT + d] = dt
            work[DU + d] = dt * u[image, group, p, n, d]


@_kernel(forceinline=True)
def _advance(
    states: Any, o: int, work: Any, y: Any, image: int, group: int, p: int, n: int, b: Any, c: Any, width: int
) -> None:
    """Move one state component one step, h = exp(dt a) h + dt u b, and add c h to the output."""
    for d in range(_multiple(width)):
        h = exp(work[DT + d] * states[o + A + d]) * states[o + H + d] + work[DU + d] * b
        states[o + H + d] = h
        y[image, group, p, n, d] += c * h


@_kernel()
def _forward(
    first: int, stop: int, u: Any, delta: Any, a: Any, b: Any, c: Any, bias: Any, order: Any, use_softplus: bool,
    y: Any, last: Any,
) -> None:  # fmt: skip
    """Run the tasks ``first`` to ``stop``: scan each one's block of one group of one image, in all its directions."""
    groups, blocks, width = u.shape[1], u.shape[3], u.shape[4]
    directions = a.shape[0] // groups
    work = np.empty(WORK, u.dtype)
    components = np.uint64(a.shape[1])
    states = np.empty(components * STATE, u.dtype)
    for task in range(first, stop):
        image, group, n = task // (groups * blocks), task // blocks % groups, task % blocks
        for k in range(group * directions, (group + 1) * directions):
            _load_block(work, states, a, bias, k, n, width)
            for t in range(order.shape[1]):
                p = order[k, t]
                _drive(work, u, delta, image, group, k, p, n, use_softplus, width)
                for s in range(components):
                    _advance(
                        states, s * STATE, work, y, image, group, p, n, b[image, k, p, s], c[image, k, p, s], width
                    )
            for s in range(components):
                for d in range(_multiple(width)):
                    last[image, k, s, n, d] = states[s * STATE + H + d]


@_kernel(forceinline=True)
def _remember_step(
    trail: Any, o: int, work: Any, u: Any, delta: Any, image: int, group: int, k: int, p: int, n: int,
    use_softplus: bool, width: int,
) -> None:  # fmt: skip
    """Keep step size and drive of one row in the trail."""
    if use_softplus:
        for d in range(_multiple(width)):
            dt = softplus(delta[image, k, p, n, d] + work[BIAS + d])
            trail[o + TRAIL_DT + d] = dt
            trail[o + TRAIL_DU + d] = dt * u[image, group, p, n, d]
    else:
        for d in range(_multiple(width)):
            dt = delta[image, k, p, n, d] + work[BIAS + d]
            trail[o + TRAIL_DT + d] = dt
            trail[o + TRAIL_DU + d] = dt * u[image, group, p, n, d]


@_kernel(forceinline=True)
def _remember_state(trail: Any, o: int, row: int, before: int, states: Any, s: int, b: Any, width: int) -> None:
    """Keep decay and state of one component after one step; ``before`` is where the state before it lies."""
    for d in range(_multiple(width)):
        decay = exp(trail[o + TRAIL_DT + d] * states[s * STATE + A + d])
        trail[row + DECAY + d] = decay
        trail[row + AFTER + d] = decay * trail[before + d] + trail[o + TRAIL_DU + d] * b


@_kernel(forceinline=True)
def _walk_segment(
    trail: Any, work: Any, states: Any, checkpoints: Any, segment: int, length: int, image: int, group: int, k: int,
    n: int, u: Any, delta: Any, b: Any, order: Any, use_softplus: bool, width: int,
) -> None:  # fmt: skip
    """Compute the states of one segment again, from its checkpoint; slot i + 1 of the trail is step i."""
    components = np.uint64(b.shape[3])
    slot = TRAIL_STATES + components * COMPONENT
    for s in range(components):
        for d in range(_multiple(width)):
            trail[TRAIL_STATES + s * COMPONENT + AFTER + d] = checkpoints[segment, s, d]
    for t in range(segment * SEGMENT, min((segment + 1) * SEGMENT, length)):
        p = order[k, t]
        o = np.uint64(t - segment * SEGMENT + 1) * slot
        _remember_step(trail, o, work, u, delta, image, group, k, p, n, use_softplus, width)
        for s in range(components):
            row = o + TRAIL_STATES + s * COMPONENT
            _remember_state(trail, o, row, row - slot + AFTER, states, s, b[image, k, p, s], width)


@_kernel(forceinline=True)
def _load_row(
    work: Any, u: Any, delta: Any, gy: Any, image: int, group: int, k: int, p: int, n: int, use_softplus: bool,
    width: int,
) -> None:  # fmt: skip
    """Fetch one row for the way back, with the slope of its softplus, and zero its gradients."""
    one = work.dtype.type(1)
    for d in range(_multiple(width)):
        step = delta[image, k, p, n, d] + work[BIAS + d]
        work[SLOPE + d] = sigmoid(step) if use_softplus else one
        work[U + d] = u[image, group, p, n, d]
        work[GY + d] = gy[image, group, p, n, d]
        work[GDT + d] = 0
        work[GDU + d] = 0


@_kernel(forceinline=True)
def _reverse(work: Any, states: Any, o: int, trail: Any, slot: int, row: int, before: int, b: Any, c: Any, width: int) -> None:
    """Move one state component one step back: pass its gradient on to dt, dt * u, a, and the step before."""
    for d in range(_multiple(width)):
        gy = work[GY + d]
        g = c * gy + states[o + CARRY + d]
        carry = trail[row + DECAY + d] * g
        q = carry * trail[before + d]  # gradient of dt * a
        states[o + CARRY + d] = carry
        states[o + GA + d] += q * trail[slot + TRAIL_DT + d]
        work[GDT + d] += q * states[o + A + d]
        work[GDU + d] += g * b
        work[PRODUCT_B + d] = g * trail[slot + TRAIL_DU + d]
        work[PRODUCT_C + d] = gy * trail[row + AFTER + d]


@_kernel(forceinline=True)
def _store_row(
    work: Any, trail: Any, slot: int, gu: Any, gdelta: Any, image: int, group: int, k: int, p: int, n: int, width: int
) -> None:
    """Turn the gradients of dt and dt * u into those of the row's delta and u."""
    for d in range(_multiple(width)):
        gdelta[image, k, p, n, d] = (work[GDT + d] + work[GDU + d] * work[U + d]) * work[SLOPE + d]
        gu[image, group, p, n, d] += work[GDU + d] * trail[slot + TRAIL_DT + d]


@_kernel()
def _backward(
    first: int, stop: int, u: Any, delta: Any, a: Any, b: Any, c: Any, bias: Any, order: Any, use_softplus: bool,
    gy: Any, glast: Any, gu: Any, gdelta: Any, ga: Any, gb: Any, gc: Any,
) -> None:  # fmt: skip
    """Run the tasks ``first`` to ``stop``: the gradients of each one's block of one group of one image."""
    groups, blocks, width = u.shape[1], u.shape[3], u.shape[4]
    directions, components, length = a.shape[0] // groups, np.uint64(a.shape[1]), order.shape[1]
    segments = (length + SEGMENT - 1) // SEGMENT
    slot = TRAIL_STATES + components * COMPONENT
    work = np.empty(WORK, u.dtype)
    states = np.empty(components * STATE, u.dtype)
    trail = np.empty(np.uint64(SEGMENT + 1) * slot, u.dtype)
    checkpoints = np.empty((segments, components, LANES), u.dtype)
    for task in range(first, stop):
        image, group, n = task // (groups * blocks), task // blocks % groups, task % blocks
        for k in range(group * directions, (group + 1) * directions):
            _load_block(work, states, a, bias, k, n, width)
            for s in range(components):
                for d in range(_multiple(width)):
                    checkpoints[0, s, d] = 0
                    states[s * STATE + CARRY + d] = glast[image, k, s, n, d]
                    states[s * STATE + GA + d] = 0
            for step in range(2 * segments - 1):  # forwards to the last segment, then backwards from it
                segment = min(step, 2 * segments - 2 - step)
                _walk_segment(
                    trail, work, states, checkpoints, segment, length, image, group, k, n, u, delta, b, order,
                    use_softplus, width,
                )  # fmt: skip
                if step < segments - 1:
                    for s in range(components):
                        for d in range(_multiple(width)):
                            checkpoints[segment + 1, s, d] = trail[
                                np.uint64(SEGMENT) * slot + TRAIL_STATES + s * COMPONENT + AFTER + d
                            ]
                    continue
                for t in range(min((segment + 1) * SEGMENT, length) - 1, segment * SEGMENT - 1, -1):
                    p = order[k, t]
                    o = np.uint64(t - segment * SEGMENT + 1) * slot
                    _load_row(work, u, delta, gy, image, group, k, p, n, use_softplus, width)
                    for s in range(components):
                        row = o + TRAIL_STATES + s * COMPONENT
                        _reverse(
                            work, states, s * STATE, trail, o, row, row - slot + AFTER,
                            b[image, k, p, s], c[image, k, p, s], width,
                        )  # fmt: skip
                        gb[n, image, k, p, s] = _sum(work, PRODUCT_B, width)
                        gc[n, image, k, p, s] = _sum(work, PRODUCT_C, width)
                    _store_row(work, trail, o, gu, gdelta, image, group, k, p, n, width)
            for s in range(components):
                for d in range(_multiple(width)):
                    ga[image, k, s, n, d] = states[s * STATE + GA + d]


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
        _pool(os.getpid(), threads - 1).submit(kernel, first, stop, *inputs, *outputs)
        for first, stop in itertools.pairwise(bounds[1:])
    ]
    kernel(0, bounds[1], *inputs, *outputs)
    for run in runs:
        run.result()


def block_width(channels: int) -> int:
    """Return the width W of the blocks for so many channels (filled up to a multiple of 32)."""
    return 32 if -(-channels // 32) % 2 else 64


def forward(threads: int, *inputs: Any) -> tuple[Any, Any]:
    """Return ``(y, last_state [B, K, S, N, W])`` for ``(u, delta, a, b, c, bias, order, use_softplus)``."""
    u, delta, a = inputs[:3]
    y = np.zeros(u.shape, u.dtype)
    last = np.empty((delta.shape[0], *a.shape), u.dtype)
    _run(_forward, threads, inputs, (y, last))
    return y, last


def backward(threads: int, grad_y: Any, grad_last: Any, *inputs: Any) -> tuple[Any, ...]:
    """Return the gradients of u, delta, a, b, c and bias."""
    u, delta, a, b = inputs[:4]
    gu, gdelta = np.zeros(u.shape, u.dtype), np.empty(delta.shape, u.dtype)
    ga = np.empty((u.shape[0], *a.shape), u.dtype)
    gb, gc = np.empty((2, u.shape[3], *b.shape), u.dtype)
    _run(_backward, threads, inputs, (grad_y, grad_last, gu, gdelta, ga, gb, gc))
    return gu, gdelta, ga.sum(0), gb.sum(0), gc.sum(0), gdelta.sum((0, 2))
