"""The selective scan of state space models: reference, fast paths, and the choice between them.

For each channel, with a state of size S: ``h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]`` and
``y[t] = C[t] h[t] + D u[t]`` (Mamba, arXiv 2312.00752, section 3 and algorithm 2). Published "reference"
implementations always compute in float32; the one here stays in float64 for float64 inputs. The fast paths are custom
ops, opaque to torch: numba on a CPU and Triton on a GPU, each with its own backward. There are no second derivatives.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.errors import EnvironmentProblem, ShapeError, SpecError, nearest
from eyeswap.ops._constant import constant

PATHS = ("auto", "reference", "numba", "triton")
logger = logging.getLogger(__name__)


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    delta_bias: Tensor | None = None, softplus: bool = False,
    *, return_last_state: Literal[False] = False, path: str = "auto",
) -> Tensor: ...  # fmt: skip
@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    delta_bias: Tensor | None = None, softplus: bool = False,
    *, return_last_state: Literal[True], path: str = "auto",
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    softplus: bool = False,
    *,
    return_last_state: bool = False,
    path: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective scan.

    Args:
        u: ``[B, K*Dg, L]``, input; channel ``c`` belongs to group ``c // Dg``.
        delta: like ``u``, step sizes before bias and softplus.
        A: ``[K*Dg, S]``, negative.
        B: ``[B, K, S, L]``, or ``[B, S, L]`` shared by all channels.
        C: like ``B``.
        D: ``[K*Dg]``, skip connection.
        delta_bias: ``[K*Dg]``, added to ``delta``.
        softplus: whether softplus is applied to the step sizes.
        return_last_state: whether to also return the state after the last step.
        path: ``auto``, ``reference``, ``numba`` or ``triton``; ``auto`` uses numba for CPU tensors, Triton for CUDA
            tensors if it is installed, and otherwise the reference.

    Returns:
        ``[B, K*Dg, L]`` in the dtype of ``u``; with ``return_last_state`` also the state ``[B, K*Dg, S]``.
        Computation is in float64 if any input is, else in float32.

    Raises:
        ShapeError: if the shapes do not fit.
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    if B.ndim == 3 and C.ndim == 3:
        B, C = B.unsqueeze(1), C.unsqueeze(1)  # [B, 1, S, L]
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    path = choose_path(path, u)
    dtype = functools.reduce(torch.promote_types, [t.dtype for t in (u, delta, A, B, C)], torch.float32)
    K, L = B.shape[1], B.shape[3]
    skip = u.new_zeros(u.shape[1]) if D is None else D
    bias = u.new_zeros(u.shape[1]) if delta_bias is None else delta_bias
    y, last = scan_rows(
        u.to(dtype).unflatten(1, (K, -1)).transpose(2, 3),  # [B, K, L, Dg]
        delta.to(dtype).unflatten(1, (K, -1)).transpose(2, 3),  # [B, K, L, Dg]
        A.to(dtype).unflatten(0, (K, -1)).transpose(1, 2),  # [K, S, Dg]
        B.to(dtype).transpose(2, 3),  # [B, K, L, S]
        C.to(dtype).transpose(2, 3),
        skip.to(dtype).unflatten(0, (K, -1)),
        bias.to(dtype).unflatten(0, (K, -1)),
        torch.arange(L, device=u.device).expand(K, L),
        softplus,
        path,
    )
    y = y.transpose(2, 3).flatten(1, 2).to(u.dtype)  # [B, K*Dg, L]
    return (y, last.transpose(2, 3).flatten(1, 2)) if return_last_state else y


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `selective_scan`, with the same shapes, as a plain loop over steps; return the output and last state."""
    return selective_scan(u, delta, A, B, C, D, delta_bias, softplus, return_last_state=True, path="reference")


def _check_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None
) -> None:
    if u.ndim != 3 or B.ndim != 4:
        raise ShapeError(f"selective_scan: u is {tuple(u.shape)} and B {tuple(B.shape)}, expected 3 and 3 or 4 axes")
    batch, channels, length = u.shape
    K, S = B.shape[1:3]
    wanted = {
        "delta": (delta, (batch, channels, length)),
        "A": (A, (channels, S)),
        "B": (B, (batch, K, S, length)),
        "C": (C, (batch, K, S, length)),
        "D": (D, (channels,)),
        "delta_bias": (delta_bias, (channels,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ShapeError(
                f"selective_scan: {name} is {tuple(tensor.shape)}, expected {shape} for u {tuple(u.shape)}"
            )
    if channels % K or not length:
        raise ShapeError(f"selective_scan: u is {tuple(u.shape)}, which does not fit {K} groups of B")


def choose_path(path: str, u: Tensor) -> str:
    """Resolve ``path`` for tensors like ``u``, whatever their shape; each choice is logged once.

    Raises:
        SpecError: if ``path`` is unknown.
        EnvironmentProblem: if ``path`` cannot run here.
    """
    if path not in PATHS:
        raise SpecError(f"selective_scan: unknown path {path!r}. {nearest(path, PATHS)}")
    has_triton = importlib.util.find_spec("triton") is not None
    if path == "auto":
        path = {"cpu": "numba", "cuda": "triton" if has_triton else "reference"}.get(u.device.type, "reference")
        if path == "reference":
            hint = "; run: pip install triton" if u.device.type == "cuda" else ""
            log_once(
                f"selective scan on {u.device.type}: no fast path, the slow reference is used{hint}", logging.WARNING
            )
    if path == "numba" and u.device.type != "cpu":
        raise EnvironmentProblem(f"selective_scan: path numba needs CPU tensors, got {u.device}; use path auto")
    if path == "triton":
        if not has_triton:
            raise EnvironmentProblem("selective_scan: path triton needs Triton; run: pip install triton")
        if u.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise EnvironmentProblem(f"selective_scan: path triton needs CUDA tensors, got {u.device}; use path auto")
    log_once(f"selective scan on {u.device.type}: {path} path")
    return path


@constant
def log_once(message: str, level: int = logging.INFO) -> None:
    """Log a line the first time only; a compiler that traces the caller also runs it once."""
    _log(message, level)


@functools.cache
def _log(message: str, level: int) -> None:
    logger.log(level, message)


def scan_rows(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, bias: Tensor, order: Tensor,
    softplus: bool, path: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scan K directions over channels-last rows in place, the layout that all paths share.

    Args:
        u: ``[B, G, L, C]``; ``G == K``, or 1 if all directions read the same rows.
        delta: ``[B, K, L, C]``.
        a: ``[K, S, C]``.
        b: ``[B, K, L, S]``.
        c: ``[B, K, L, S]``.
        skip: ``[K, C]``.
        bias: ``[K, C]``.
        order: ``[K, L]`` int64; direction ``k`` visits row ``order[k, t]`` at step ``t``, each row once.
        softplus: whether softplus is applied to the step sizes.
        path: ``reference``, ``numba`` or ``triton``.

    Returns:
        ``y [B, G, L, C]``, summed over directions if ``G`` is 1, and the last states ``[B, K, S, C]``.
    """
    scan: Callable[..., tuple[Tensor, Tensor]]
    if path == "reference":
        scan = scan_reference
    elif path == "numba":
        scan = _scan_numba
    else:
        from eyeswap.ops._triton_scan import scan_triton as scan
    y, last = scan(u, delta, a, b, c, bias, order, softplus)
    skip = skip.unsqueeze(1) if u.shape[1] == order.shape[0] else skip.sum(0)
    return torch.addcmul(y, u, skip), last


def scan_reference(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    """Compute `scan_rows` without the skip connection, with the same shapes, as a plain differentiable loop."""
    K, L = order.shape
    step = delta + bias[:, None]  # [B, K, L, C]
    step = F.softplus(step) if softplus else step
    rows = order[None, :, :, None]

    def scanned(x: Tensor) -> Tensor:
        return x.gather(2, rows.expand(x.shape[0], -1, -1, x.shape[3]))

    step, inputs, b, c = scanned(step), scanned(u.expand(-1, K, -1, -1)), scanned(b), scanned(c)
    decay = torch.exp(step[:, :, :, None] * a[:, None])  # [B, K, L, S, C]
    drive = (step * inputs)[:, :, :, None] * b[..., None]  # [B, K, L, S, C]
    state = torch.zeros_like(decay[:, :, 0])  # [B, K, S, C]
    outputs = []
    for t in range(L):
        state = decay[:, :, t] * state + drive[:, :, t]
        outputs.append((state * c[:, :, t, :, None]).sum(2))
    y = torch.stack(outputs, 2)  # [B, K, L, C], in scan order
    y = torch.zeros_like(y).scatter(2, rows.expand_as(y), y)  # back to row order
    return (y.sum(1, keepdim=True) if u.shape[1] != K else y), state


def _blocks(x: Tensor, width: int) -> Tensor:
    """Split the channels ``[..., C]`` into blocks ``[..., N, W]``, the last one zero-padded."""
    blocks: Tensor = F.pad(x, (0, -x.shape[-1] % width)).unflatten(-1, (-1, width))
    return blocks


def _channels(x: Any, channels: int) -> Tensor:
    """Undo `_blocks` for an array; return a tensor."""
    joined: Tensor = torch.from_numpy(x).flatten(-2)[..., :channels].contiguous()
    return joined


@torch.library.custom_op("eyeswap::selective_scan", mutates_args=())
def _scan_numba(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    from eyeswap.ops import _numba_scan

    width = _numba_scan.block_width(u.shape[-1])
    tensors = (*(_blocks(t, width) for t in (u, delta, a)), b, c, _blocks(bias, width), order)
    arrays = [t.detach().contiguous().numpy() for t in tensors]
    y, last = _numba_scan.forward(*arrays, softplus)
    return _channels(y, u.shape[-1]), _channels(last, u.shape[-1])


@_scan_numba.register_fake
def _(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty((u.shape[0], *a.shape))


@torch.library.custom_op("eyeswap::selective_scan_backward", mutates_args=())
def _scan_numba_backward(
    grad_y: Tensor, grad_last: Tensor,
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from eyeswap.ops import _numba_scan, _numba_scan_backward

    width = _numba_scan.block_width(u.shape[-1])
    blocks = [_blocks(t, width) for t in (grad_y, grad_last, u, delta, a)]
    arrays = [t.detach().contiguous().numpy() for t in (*blocks, b, c, _blocks(bias, width), order)]
    gu, gdelta, ga, gb, gc, gbias = _numba_scan_backward.backward(*arrays, softplus)
    gu, gdelta, ga, gbias = (_channels(g, u.shape[-1]) for g in (gu, gdelta, ga, gbias))
    return gu, gdelta, ga, torch.from_numpy(gb), torch.from_numpy(gc), gbias


@_scan_numba_backward.register_fake
def _(
    grad_y: Tensor, grad_last: Tensor,
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, bias: Tensor, order: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    gu, gdelta, ga, gb, gc, gbias = (t.new_empty(t.shape) for t in (u, delta, a, b, c, bias))
    return gu, gdelta, ga, gb, gc, gbias


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.softplus = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _scan_numba_backward(grad_y, grad_last, *ctx.saved_tensors, ctx.softplus)
    return (*gradients, None, None)  # order and softplus have none


_scan_numba.register_autograd(_differentiate, setup_context=_save_inputs)
