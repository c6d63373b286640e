import os
import shutil
import subprocess
import sys

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
    def without_cache(function):
        raise RuntimeError("no locator available")

    monkeypatch.setattr(_numba_math, "_KernelCache", without_cache)

    @_numba_math.kernel()
    def add(x, y):
        return x + y

    assert add(2, 3) == 5


KERNEL = """
import sys
from _numba_math import kernel, softplus

@kernel()
def apply(x):
    return softplus(x)

print(apply(30.0), sum(apply.stats.cache_hits.values()))
"""


@pytest.fixture
def kernels(tmp_path):
    """A folder of kernels of its own, and a run of one of them: its result, and whether the cache had it."""
    shutil.copy(_numba_math.__file__, tmp_path / "_numba_math.py")
    (tmp_path / "_numba_user.py").write_text(KERNEL)

    def run():
        command = [sys.executable, str(tmp_path / "_numba_user.py")]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        result, hits = done.stdout.split()
        return float(result), int(hits)

    return tmp_path, run


@pytest.mark.extended
def test_machine_code_is_made_anew_when_any_of_its_sources_changes(kernels):
    folder, run = kernels
    assert run() == (30.0, 0)
    assert run() == (30.0, 1)
    math_file = folder / "_numba_math.py"
    math_file.write_text(math_file.read_text().replace("return x if x > SOFTPLUS_LINEAR", "return 2 * x if x > 20.0"))
    assert run() == (60.0, 0)


@pytest.mark.extended
def test_a_cache_that_was_cut_off_is_made_anew(kernels):
    folder, run = kernels
    run()
    for number, ending in enumerate(("nbi", "nbc"), start=1):
        for file in (folder / "cache").rglob(f"*.{ending}"):
            file.write_bytes(file.read_bytes()[:number])
        assert run() == (30.0, 0)
