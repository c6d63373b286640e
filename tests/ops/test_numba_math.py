import numpy as np
import pytest
from numba import njit

from eyeswap.ops import _numba_math


@njit
def apply(x, exps, softpluses, sigmoids):
    for i in range(x.shape[0]):
        exps[i] = _numba_math.exp(x[i])
        softpluses[i] = _numba_math.softplus(x[i])
        sigmoids[i] = _numba_math.sigmoid(x[i])


def applied(x):
    outputs = np.empty((3, *x.shape), x.dtype)
    apply(x, *outputs)
    return outputs


def truth(x):
    x = x.astype(np.longdouble)
    return np.stack([np.exp(x), np.logaddexp(0, x), 1 / (1 + np.exp(-x))])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-7), (np.float64, 1e-15)])
@pytest.mark.parametrize("bound", [1e-3, 1, 19, 86])
def test_functions_are_accurate_to_the_last_bits(dtype, tolerance, bound):
    x = np.linspace(-bound, bound, 20_001).astype(dtype)
    error = np.abs(applied(x) - truth(x)) / truth(x)
    assert error.max() < (tolerance if bound < 20 or dtype == np.float32 else 1e-8)  # softplus(x) = x above 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_keep_nan_and_infinity(dtype):
    exps, softpluses, sigmoids = applied(np.array([np.nan, np.inf, -np.inf, 1e4, -1e4, 0], dtype))
    np.testing.assert_array_equal(exps, np.array([np.nan, np.inf, 0, np.inf, 0, 1], dtype))
    np.testing.assert_allclose(softpluses, np.array([np.nan, np.inf, 0, 1e4, 0, np.log(2)], dtype))
    np.testing.assert_array_equal(sigmoids, np.array([np.nan, 1, 0, 1, 0, 0.5], dtype))


def test_kernels_compile_in_memory_where_no_cache_can_be_written(monkeypatch):
    def without_cache(**settings):
        if settings.pop("cache", False):
            raise RuntimeError("no locator available")
        return njit(**settings)

    monkeypatch.setattr(_numba_math, "njit", without_cache)

    @_numba_math.kernel()
    def add(x, y):
        return x + y

    assert add(2, 3) == 5
