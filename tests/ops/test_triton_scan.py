"""The Triton kernel without a GPU: its arithmetic in Triton's interpreter, its compilation for a GPU's instruction set.

Both need a fresh process, because Triton reads the environment when it is imported.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from eyeswap.errors import EnvironmentProblem
from eyeswap.ops import selective_scan, selective_scan_reference

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

AGREES = """
import torch
from eyeswap.ops import selective_scan, ss2d, ss2d_reference
generator = torch.Generator().manual_seed(0)
def normal(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
def error(got, want):
    return float((got.detach() - want.detach()).norm() / want.detach().norm().clamp(min=1e-300))
for K, Dg, S, L, softplus in ((1, 40, 1, 9, True), (3, 5, 3, 6, True), (2, 4, 4, 1, False)):
    u, delta = normal(2, K * Dg, L), normal(2, K * Dg, L).sigmoid() * (1 if softplus else 0.1)
    B, C = normal(2, 2, K, S, L)
    inputs = [u, delta, -normal(K * Dg, S).exp(), B, C, normal(K * Dg), normal(K * Dg).exp()]
    results = []
    for path in ("triton", "reference"):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y, last = selective_scan(*leaves, softplus=softplus, return_last_state=True, path=path)
        (y.square().sum() + last.square().sum()).backward()
        results.append([y, last, *(leaf.grad for leaf in leaves)])
    assert all(error(got, want) < 1e-12 for got, want in zip(*results))
x, D = normal(1, 3, 5, 8), 8
weights = [normal(4, 4, D), normal(4, D, 2), normal(4, D) - 2, normal(4 * D, 1), normal(4 * D)]
assert error(ss2d(x, *weights, path="triton"), ss2d_reference(x, *weights)) < 1e-12
"""

COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from eyeswap.ops._triton_scan import BLOCK, _scan
for states in (1, 16):
    constants = {"USE_SOFTPLUS": True, "BLOCK_C": BLOCK, "BLOCK_S": states}
    constants |= {"groups": 1, "states": 1} if states == 1 else {}  # a launch makes ones constant
    kinds = {"order": "*i64"} | dict.fromkeys(("groups", "directions", "length", "channels", "states"), "i32")
    names = _scan.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "*fp32") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(_scan, signature=signature, constexprs=places)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["cubin"]
"""


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@needs_triton
def test_kernel_agrees_with_the_reference_in_the_interpreter():
    finished = run(AGREES, TRITON_INTERPRET="1")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
@needs_triton
def test_kernel_compiles_for_a_gpu(tmp_path):
    finished = run(COMPILES, TRITON_CACHE_DIR=str(tmp_path))
    assert finished.returncode == 0, finished.stderr


def test_triton_path_says_what_it_lacks_on_a_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    ones = torch.ones(1, 1, 2)
    with pytest.raises(EnvironmentProblem, match="triton"):
        selective_scan(ones, ones, -torch.ones(1, 1), ones, ones, path="triton")


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernel_agrees_with_the_reference_on_a_gpu():
    generator = torch.Generator().manual_seed(0)
    u, delta = torch.randn(2, 2, 96, 200, generator=generator)
    A, (B, C) = -torch.rand(96, 4, generator=generator), torch.randn(2, 2, 4, 4, 200, generator=generator)
    want, _ = selective_scan_reference(u, delta, A, B, C, softplus=True)
    got = selective_scan(*(t.cuda() for t in (u, delta, A, B, C)), softplus=True, path="triton").cpu()
    assert (got - want).norm() / want.norm() < 1e-6
