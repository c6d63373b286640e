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
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from eyeswap.ops._triton_math import tile_shape
from eyeswap.ops._triton_scan import _scan
from eyeswap.ops._triton_scan_backward import _backward
from eyeswap.ops._triton_ss2d import _ss2d

INTEGERS = ("groups", "directions", "length", "channels", "height", "width")

def compiled(kernel, states, warps, inputs, capability, ones=()):
    tile = dict(zip(("BLOCK_T", "BLOCK_C", "BLOCK_S"), tile_shape(states)))
    constants = {"STATES": states, "USE_SOFTPLUS": True, "RANK": 6, "BLOCK_R": 16, "DIRECTIONS": 4}
    constants |= {**tile, **dict.fromkeys(ones, 1)}
    kinds = dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(("x", "projected", "weight", "y"), inputs)
    kinds["order"] = "*i64"
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "*fp32") for name in names}
    places = {(names.index(name),): value for name, value in constants.items() if name in names}
    source = ASTSource(kernel, signature=signature, constexprs=places)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}).asm["cubin"]

assert compiled(_ss2d, 1, 1, "*bf16", 90)
assert compiled(_scan, 8, 4, "*fp32", 80)
assert compiled(_backward, 1, 4, "*fp32", 90)
for kernel in (_ss2d, _scan, _backward):  # a launch makes ones constant
    assert compiled(kernel, 3, 8, "*fp32", 80, ones=(*INTEGERS, "DIRECTIONS"))
"""


def run(*arguments, **environment):
    finished = subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
@needs_triton
def test_kernels_agree_with_the_references_in_the_interpreter():
    failures = json.loads(run(Path(__file__).with_name("triton_checks.py"), TRITON_INTERPRET="1", OMP_NUM_THREADS="1"))
    assert not failures, "\n".join(f"{name}: {trace}" for name, trace in failures.items())


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
