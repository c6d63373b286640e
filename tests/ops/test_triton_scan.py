"""The Triton kernels without a GPU: their arithmetic in Triton's interpreter, their compilation for a GPU.

Both take a fresh process, because Triton reads the environment when it is imported.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eyeswap.errors import EnvironmentProblem
from eyeswap.ops import selective_scan, ss2d

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

COMPILES = """
from benchmarks.ptx import KERNELS, compile_kernel

assert compile_kernel("scan", 8, 0, num_warps=4, arch=80).asm["cubin"]
assert compile_kernel("backward", 1, 0, num_warps=4, arch=90).asm["cubin"]
for name in KERNELS:  # a launch turns sizes of 1 into constants
    assert compile_kernel(name, 3, 6, num_warps=8, arch=80, ones=True).asm["cubin"]
"""


def run(*arguments, **environment):
    root = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.extended
@pytest.mark.slow
@needs_triton
def test_kernels_agree_with_the_references_in_the_interpreter():
    failures = json.loads(run(Path(__file__).with_name("triton_checks.py"), TRITON_INTERPRET="1", OMP_NUM_THREADS="1"))
    assert not failures, "\n".join(f"{name}: {trace}" for name, trace in failures.items())


@pytest.mark.extended
@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_a_gpu(tmp_path):
    run("-c", COMPILES, TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("function", [selective_scan, ss2d])
def test_triton_path_says_what_it_lacks_on_a_cpu(function, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    ones = torch.ones(1, 1, 2)
    inputs = [ones, ones, -torch.ones(1, 1), ones, ones]
    if function is ss2d:
        inputs = [torch.ones(size) for size in ((1, 2, 2, 2), (4, 3, 2), (4, 2, 1), (4, 2), (8, 1), (8,))]
    with pytest.raises(EnvironmentProblem, match="triton"):
        function(*inputs, path="triton")
