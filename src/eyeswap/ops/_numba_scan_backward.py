"""The backward selective scan on a CPU: a numba kernel.

With h[t] = decay[t] h[t-1] + dt[t] u[t] b[t], decay = exp(dt a) and y = c h, the gradient g of the state is itself a
recurrence, from the last step to the first, g[t] = c[t] gy[t] + decay[t+1] g[t+1], and gives those of all inputs. Only
the inputs are kept from the forward pass: states are recomputed from checkpoints, one segment at a time. Sums over
channels are written per block and added in a fixed order, so results do not depend on the number of threads. Memory
layout and loop style are those of ``_numba_scan.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eyeswap.ops._numba_math import exp, kernel, sigmoid
from eyeswap.ops._numba_scan import DT, DU, LANES, drive, lanes, rows, run

SEGMENT = 32  # steps between checkpoints; a segment's trail takes 34 KB for one float32 state, 290 KB for 16

U, GY, SLOPE, GDT, GDU, PRODUCT_B, PRODUCT_C, WORK = rows(8)  # work array of a step; WORK is its size
A, CARRY, GA, STATE = rows(4)  # per state component: matrix, gradient from later steps, gradient of the matrix
_, _, COMPONENTS = rows(3)  # a slot of the trail holds one step: DT, DU, then per state component
DECAY, AFTER, COMPONENT = rows(3)  # the decay of the step and the state after it


@kernel(forceinline=True, fastmath={"contract", "reassoc"})
def _sum(work: Any, row: int, width: int) -> Any:
    """Sum a row; the compiler may reorder the terms (else the sum would be scalar), which preserves NaN and inf."""
    total = work.dtype.type(0)
    for d in range(lanes(width)):
        total += work[row + d]
    return total


@kernel(forceinline=True)
def _remember(trail: Any, o: int, row: int, before: int, states: Any, s: int, b: Any, width: int) -> None:
    """Store decay and state of one component after a step; ``before`` is the offset of the state before it."""
    for d in range(lanes(width)):
        decay = exp(trail[o + DT + d] * states[s * STATE + A + d])
        trail[row + DECAY + d] = decay
        trail[row + AFTER + d] = decay * trail[before + d] + trail[o + DU + d] * b


@kernel(forceinline=True)
def _walk(
    trail: Any, states: Any, checkpoints: Any, segment: int, u: Any, delta: Any, b: Any, bias: Any,
    order: Any, place: Any, use_softplus: bool, width: int,
) -> None:  # fmt: skip
    """Recompute a segment's states from its checkpoint to the next one; step i fills slot i + 1 of the trail."""
    image, _, k, _ = place
    components = np.uint64(b.shape[3])
    slot = COMPONENTS + components * COMPONENT
    for s in range(components):
        for d in range(lanes(width)):
            trail[COMPONENTS + s * COMPONENT + AFTER + d] = checkpoints[segment, s, d]
    for t in range(segment * SEGMENT, min((segment + 1) * SEGMENT, order.shape[1])):
        p = order[k, t]
        o = np.uint64(t - segment * SEGMENT + 1) * slot
        drive(trail, o, bias, u, delta, place, p, use_softplus, width)
        for s in range(components):
            row = o + COMPONENTS + s * COMPONENT
            _remember(trail, o, row, row - slot + AFTER, states, s, b[image, k, p, s], width)
    for s in range(components):
        for d in range(lanes(width)):
            checkpoints[segment + 1, s, d] = trail[np.uint64(SEGMENT) * slot + COMPONENTS + s * COMPONENT + AFTER + d]


@kernel(forceinline=True)
def _load(
    work: Any, u: Any, delta: Any, bias: Any, gy: Any, place: Any, p: int, use_softplus: bool, width: int
) -> None:
    """Load one row for the backward pass, with the slope of its softplus, and zero its gradients."""
    image, group, k, n = place
    one = work.dtype.type(1)
    for d in range(lanes(width)):
        work[SLOPE + d] = sigmoid(delta[image, k, p, n, d] + bias[k, n, d]) if use_softplus else one
        work[U + d] = u[image, group, p, n, d]
        work[GY + d] = gy[image, group, p, n, d]
        work[GDT + d] = 0
        work[GDU + d] = 0


@kernel(forceinline=True)
def _reverse(
    work: Any, states: Any, o: int, trail: Any, slot: int, row: int, before: int, b: Any, c: Any, width: int
) -> None:
    """Take one state component one step back: pass its gradient to dt, dt * u, a, and the previous step."""
    for d in range(lanes(width)):
        gy = work[GY + d]
        g = c * gy + states[o + CARRY + d]
        carry = trail[row + DECAY + d] * g
        q = carry * trail[before + d]  # gradient of dt * a
        states[o + CARRY + d] = carry
        states[o + GA + d] += q * trail[slot + DT + d]
        work[GDT + d] += q * states[o + A + d]
        work[GDU + d] += g * b
        work[PRODUCT_B + d] = g * trail[slot + DU + d]
        work[PRODUCT_C + d] = gy * trail[row + AFTER + d]


@kernel(forceinline=True)
def _store(work: Any, trail: Any, o: int, gu: Any, gdelta: Any, place: Any, p: int, width: int) -> None:
    """Turn the gradients of dt and dt * u into those of the row's delta and u."""
    image, group, k, n = place
    for d in range(lanes(width)):
        gdelta[image, k, p, n, d] = (work[GDT + d] + work[GDU + d] * work[U + d]) * work[SLOPE + d]
        gu[image, group, p, n, d] += work[GDU + d] * trail[o + DT + d]


@kernel()
def _backward(
    first: int, stop: int, u: Any, delta: Any, a: Any, b: Any, c: Any, bias: Any, order: Any,
    use_softplus: bool, gy: Any, glast: Any, gu: Any, gdelta: Any, ga: Any, gb: Any, gc: Any,
) -> None:  # fmt: skip
    """Run tasks ``first`` to ``stop``: compute the gradients of each task's block."""
    groups, blocks, width = u.shape[1], u.shape[3], u.shape[4]
    directions, components, length = a.shape[0] // groups, np.uint64(a.shape[1]), order.shape[1]
    segments = (length + SEGMENT - 1) // SEGMENT
    slot = COMPONENTS + components * COMPONENT
    work = np.empty(WORK, u.dtype)
    states = np.empty(components * STATE, u.dtype)
    trail = np.empty(np.uint64(SEGMENT + 1) * slot, u.dtype)
    checkpoints = np.empty((segments + 1, components, LANES), u.dtype)
    for task in range(first, stop):
        image, group, n = task // (groups * blocks), task // blocks % groups, task % blocks
        for k in range(group * directions, (group + 1) * directions):
            place = (image, group, k, n)
            for s in range(components):
                for d in range(lanes(width)):
                    checkpoints[0, s, d] = 0
                    states[s * STATE + A + d] = a[k, s, n, d]
                    states[s * STATE + CARRY + d] = glast[image, k, s, n, d]
                    states[s * STATE + GA + d] = 0
            for step in range(2 * segments - 1):  # all segments forwards for their checkpoints, then all backwards
                segment = min(step, 2 * segments - 2 - step)
                _walk(trail, states, checkpoints, segment, u, delta, b, bias, order, place, use_softplus, width)
                if step < segments - 1:
                    continue
                for t in range(min((segment + 1) * SEGMENT, length) - 1, segment * SEGMENT - 1, -1):
                    p = order[k, t]
                    o = np.uint64(t - segment * SEGMENT + 1) * slot
                    _load(work, u, delta, bias, gy, place, p, use_softplus, width)
                    for s in range(components):
                        row = o + COMPONENTS + s * COMPONENT
                        _reverse(
                            work, states, s * STATE, trail, o, row, row - slot + AFTER,
                            b[image, k, p, s], c[image, k, p, s], width,
                        )  # fmt: skip
                        gb[n, image, k, p, s] = _sum(work, PRODUCT_B, width)
                        gc[n, image, k, p, s] = _sum(work, PRODUCT_C, width)
                    _store(work, trail, o, gu, gdelta, place, p, width)
            for s in range(components):
                for d in range(lanes(width)):
                    ga[image, k, s, n, d] = states[s * STATE + GA + d]


def backward(grad_y: Any, grad_last: Any, *inputs: Any) -> tuple[Any, ...]:
    """Return the gradients of u, delta, a, b, c and bias."""
    u, delta, a, b = inputs[:4]
    gu, gdelta = np.zeros(u.shape, u.dtype), np.empty(delta.shape, u.dtype)
    ga = np.empty((u.shape[0], *a.shape), u.dtype)
    gb, gc = np.empty((2, u.shape[3], *b.shape), u.dtype)
    run(_backward, inputs, (grad_y, grad_last, gu, gdelta, ga, gb, gc))
    return gu, gdelta, ga.sum(0), gb.sum(0), gc.sum(0), gdelta.sum((0, 2))
