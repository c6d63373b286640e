"""Compile settings of the numba kernels, and an exponential, softplus and sigmoid that LLVM can vectorise.

numba calls libm once per element, which keeps a loop scalar. The float32 versions here are plain arithmetic (range
reduction and a polynomial, relative error below 3e-7), so eight or sixteen channels are computed at once; float64 uses
libm for accuracy. NaN stays NaN, overflow gives inf, underflow 0.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, overload

F = np.float32

LOG2_E = F(1.4426950408889634)
LN2_HIGH = F(0.693359375)  # exact in 9 bits, so n * LN2_HIGH is exact
LN2_LOW = F(math.log(2.0) - 0.693359375)
ROUND = F(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the mantissa
EXP_MIN, EXP_MAX = F(-87.33654), F(88.72283)
# (exp(r) - 1 - r) / r**2 on |r| <= ln(2)/2, interpolated at Chebyshev nodes: relative error of exp 1e-8.
E0, E1, E2, E3, E4 = F(0.5), F(0.16666577), F(0.04166655), F(0.00836318), F(0.00139262)
# 2*atanh(s)/s as a polynomial in s**2 on [0, 1/9], same method: relative error 4e-9.
L0, L1, L2, L3, L4 = F(2.00000001), F(0.66666322), F(0.40024595), F(0.27965158), F(0.28157778)
ZERO, ONE, TWO, INF = F(0), F(1), F(2), F(np.inf)
SOFTPLUS_LINEAR = 20.0  # above it softplus(x) is x, as in torch


@functools.cache
def _sources() -> str:
    """Return the digest of all source files of the kernels."""
    files = sorted(Path(__file__).parent.glob("_numba_*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Machine code on disk, keyed by all sources: numba keys by a function's own file, but helpers are inlined."""

    def _index_key(self, *arguments: Any) -> Any:
        return super()._index_key(*arguments), _sources()

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)
        except Exception:  # compile again what numba cannot read, such as a truncated file
            self.flush()
            return None


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile with numba on first use; cache the machine code beside the source, or in memory if it is read-only.

    Fused multiply-add is allowed: it rounds once instead of twice and preserves NaN and inf.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        settings = {"error_model": "numpy", "nogil": True, "fastmath": {"contract"}, **options}
        compiled = njit(**settings)(function)
        with contextlib.suppress(RuntimeError):  # numba finds no writable place for its cache
            compiled._cache = _KernelCache(function)
        return compiled

    return decorate


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(context: Any, shifted: Any) -> Any:
    """Return 2**n for ``shifted = ROUND + n`` by moving n from the mantissa to the exponent."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], context.get_value_type(types.int32))
        exponent = builder.shl(bits, context.get_constant(types.int32, 23))
        power = builder.add(exponent, context.get_constant(types.int32, 0x3F800000))
        return builder.bitcast(power, context.get_value_type(types.float32))

    return types.float32(types.float32), generate


@kernel()
def _exp32(x: Any) -> Any:
    clamped = EXP_MIN if x < EXP_MIN else x
    clamped = EXP_MAX if clamped > EXP_MAX else clamped
    shifted = clamped * LOG2_E + ROUND
    n = shifted - ROUND
    r = (clamped - n * LN2_HIGH) - n * LN2_LOW
    polynomial = E0 + r * (E1 + r * (E2 + r * (E3 + r * E4)))
    value = (ONE + (r + r * r * polynomial)) * _power_of_two(shifted)
    value = INF if x > EXP_MAX else value
    return ZERO if x < EXP_MIN else value


@kernel()
def _softplus32(x: Any) -> Any:
    e = _exp32(-abs(x))
    s = e / (TWO + e)
    z = s * s
    log1p = s * (L0 + z * (L1 + z * (L2 + z * (L3 + z * L4))))  # log(1 + e) = 2 atanh(s)
    return (ZERO if x < ZERO else x) + log1p


@kernel()
def _softplus64(x: Any) -> Any:
    return x if x > SOFTPLUS_LINEAR else math.log1p(math.exp(x))


@kernel()
def _sigmoid32(x: Any) -> Any:
    e = _exp32(-abs(x))
    return (e if x < ZERO else ONE) / (ONE + e)


@kernel()
def _sigmoid64(x: Any) -> Any:
    return 1.0 if x > SOFTPLUS_LINEAR else 1.0 / (1.0 + math.exp(-x))


def exp(x: Any) -> Any:
    """Return e**x (inside kernels only)."""
    return math.exp(x)


def softplus(x: Any) -> Any:
    """Return log(1 + e**x), or x itself above 20 (inside kernels only)."""
    return _softplus64(x)


def sigmoid(x: Any) -> Any:
    """Return the derivative of `softplus` (inside kernels only)."""
    return _sigmoid64(x)


@overload(exp, strict=False)  # type: ignore[untyped-decorator]
def _exp(x: Any) -> Callable[[Any], Any]:
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(softplus, strict=False)  # type: ignore[untyped-decorator]
def _softplus(x: Any) -> Callable[[Any], Any]:
    return (lambda x: _softplus32(x)) if x == types.float32 else (lambda x: _softplus64(x))


@overload(sigmoid, strict=False)  # type: ignore[untyped-decorator]
def _sigmoid(x: Any) -> Callable[[Any], Any]:
    return (lambda x: _sigmoid32(x)) if x == types.float32 else (lambda x: _sigmoid64(x))
