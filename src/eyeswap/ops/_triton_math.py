"""Functions shared by the Triton kernels of the selective scan: step sizes, and a linear recurrence over a tile.

A tile holds a few steps of some channels, steps along axis 0. Its recurrence ``h[t] = decay[t] h[t-1] + drive[t]`` is
computed as an associative scan, so that the loads of all its steps are in flight together and no step waits for memory.
Everything is in float32, or in float64 for float64 inputs. Triton's fast ``log`` is avoided, because its error near 1
is absolute, and most step sizes are far below 1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def log1p_of_share(x: tl.tensor) -> tl.tensor:
    """Return log(1 + x) for x in [0, 1] by the series of 2 artanh(z) with z = x / (2 + x) <= 1/3."""
    TERMS: tl.constexpr = 17 if x.dtype == tl.float64 else 7  # the next term is below rounding error
    z = x / (2 + x)
    square = z * z
    total = tl.zeros_like(z)
    for term in tl.static_range(TERMS):
        total = total * square + 1.0 / (2 * (TERMS - term) - 1)
    return 2 * z * total


@triton.jit  # type: ignore[untyped-decorator]
def softplus(x: tl.tensor) -> tl.tensor:
    """Return log(1 + exp(x)), and x itself above 20 as in torch."""
    return tl.where(x > 20, x, tl.maximum(x, 0.0) + log1p_of_share(tl.exp(-tl.abs(x))))


@triton.jit  # type: ignore[untyped-decorator]
def softplus_slope(x: tl.tensor) -> tl.tensor:
    """Return the derivative of `softplus`."""
    e = tl.exp(-tl.abs(x))  # at most 1, so nothing overflows
    return tl.where(x > 20, 1.0, tl.where(x < 0, e, 1.0) / (1 + e))


@triton.jit  # type: ignore[untyped-decorator]
def _compose(
    decay: tl.tensor, state: tl.tensor, next_decay: tl.tensor, next_state: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    # Two steps h -> decay h + state in a row are such a step again, which is what makes the recurrence associative.
    return next_decay * decay, next_decay * state + next_state


@triton.jit  # type: ignore[untyped-decorator]
def recur(decay: tl.tensor, drive: tl.tensor, before: tl.tensor) -> tl.tensor:
    """Return the states ``h [T, C, S]`` of a tile from the state ``before [C, S]`` its first step."""
    is_first = tl.arange(0, decay.shape[0])[:, None, None] == 0
    drive = tl.where(is_first, drive + decay * before[None, :, :], drive)
    _, h = tl.associative_scan((decay, drive), 0, _compose)
    return h


@triton.jit  # type: ignore[untyped-decorator]
def last_step(h: tl.tensor) -> tl.tensor:
    """Return the last step ``[C, S]`` of a tile ``[T, C, S]``."""
    is_last = tl.arange(0, h.shape[0])[:, None, None] == h.shape[0] - 1
    return tl.sum(tl.where(is_last, h, 0.0), axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def step_sizes(x: tl.tensor, in_t: tl.tensor, USE_SOFTPLUS: tl.constexpr) -> tl.tensor:
    """Return the step sizes ``[T, C]`` of ``x`` = delta + bias; 0 past the end, so that the state does not change."""
    return tl.where(in_t[:, None], softplus(x) if USE_SOFTPLUS else x, 0.0)


def tile_shape(states: int) -> tuple[int, int, int]:
    """Return the steps, channels and states of a tile: powers of two, steps and channels at least 16 for tl.dot."""
    return (32 if states == 1 else 16), (32 if states <= 8 else 16), triton.next_power_of_2(states)


def warps(elements: int, programs: int) -> int:
    """Return the warps per program: one per 1,024 elements of a tile, but at least 4 if few programs run at a time."""
    return min(8, max(elements // 1024, 1 if programs >= 1024 else 4))
