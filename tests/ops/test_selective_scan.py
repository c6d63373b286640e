"""The scan against goldens of the official implementation, and its paths against each other.

Goldens are found by name below EYESWAP_GOLDENS, or else in the compact copy beside the golden tests.
"""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from eyeswap.errors import EnvironmentProblem, ShapeError, SpecError
from eyeswap.ops import selective_scan as public_scan
from eyeswap.ops import selective_scan_reference
from eyeswap.ops.selective_scan import _log, _scan_numba, selective_scan

GOLDENS = Path(os.environ.get("EYESWAP_GOLDENS") or Path(__file__).parents[1] / "goldens" / "data")
INPUTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")
TENSORS = load_file(next(GOLDENS.rglob("selective_scan.safetensors")))
CASES = json.loads(next(GOLDENS.rglob("selective_scan.json")).read_text())["cases"]


def drawn(batch, K, Dg, S, L, dtype=torch.float64, seed=0):
    """Return inputs with step sizes of about 0.05 and states that remember about twenty steps."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "u": normal(batch, K * Dg, L),
        "delta": normal(batch, K * Dg, L),
        "A": -torch.exp(normal(K * Dg, S)),
        "B": normal(batch, K, S, L),
        "C": normal(batch, K, S, L),
        "D": normal(K * Dg),
        "delta_bias": normal(K * Dg) - 3,
    }


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp(min=1e-300))


def scan_and_gradients(inputs, path, softplus=True):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    y, last = selective_scan(**leaves, softplus=softplus, return_last_state=True, path=path)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    ((y * weights).sum() + (last * last).sum()).backward()
    return [y.detach(), last.detach(), *(leaf.grad for leaf in leaves.values())]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("path", ["reference", "numba"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_recorded_ones(case, path, dtype, tolerance):
    golden = {name.split("/")[1]: tensor for name, tensor in TENSORS.items() if name.startswith(f"{case}/")}
    leaves = {name: golden[name].to(dtype).clone().requires_grad_() for name in (*INPUTS, "z") if name in golden}
    inputs = {name: leaf for name, leaf in leaves.items() if name != "z"}
    out, last = selective_scan(**inputs, softplus=CASES[case]["delta_softplus"], return_last_state=True, path=path)
    out = out * torch.nn.functional.silu(leaves["z"]) if "z" in leaves else out
    (out * golden["grad_out"].to(dtype)).sum().backward()
    assert error(out, golden["out"]) < tolerance
    assert error(last, golden["last_state"]) < tolerance
    for name, leaf in leaves.items():
        assert error(leaf.grad, golden[f"grad_{name}"]) < tolerance, name


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*(st.integers(1, bound) for bound in (2, 4, 70, 3, 75))),
    st.booleans(),
    st.sampled_from([(torch.float64, 1e-12), (torch.float32, 3e-5)]),
)
def test_numba_path_agrees_with_the_reference(sizes, softplus, precision):
    dtype, tolerance = precision
    inputs = drawn(*sizes, seed=sum(sizes))
    if not softplus:  # steps must be positive, or states grow without bound
        inputs |= {name: inputs[name].sigmoid() / 10 for name in ("delta", "delta_bias")}
    want = scan_and_gradients(inputs, "reference", softplus)
    got = scan_and_gradients({name: tensor.to(dtype) for name, tensor in inputs.items()}, "numba", softplus)
    for name, ours, theirs in zip(("y", "last", *INPUTS), got, want, strict=True):
        assert error(ours, theirs) < tolerance, name


def test_constant_inputs_give_a_geometric_series_to_the_last_bits_of_float64():
    length, step = 60, 0.1
    ones = torch.ones(1, 1, length, dtype=torch.float64)
    y, last = selective_scan_reference(ones, step * ones, -torch.ones(1, 1).double(), ones, ones)
    decay = math.exp(-step)
    series = [step * (1 - decay**t) / (1 - decay) for t in range(1, length + 1)]
    assert y.flatten().tolist() == pytest.approx(series, rel=1e-14)
    assert last.item() == pytest.approx(series[-1], rel=1e-14)


def test_gradients_pass_finite_differences():
    inputs = [tensor.requires_grad_() for tensor in drawn(2, 2, 3, 2, 5).values()]

    def scan(*arguments):
        return selective_scan(*arguments, softplus=True, return_last_state=True, path="numba")

    assert torch.autograd.gradcheck(scan, inputs)


def test_operator_keeps_the_rules_of_torch():
    def leaf(*shape):
        return torch.rand(*shape, dtype=torch.float64, requires_grad=True)

    order = torch.arange(4).expand(2, 4)
    sizes = ((1, 1, 4, 3), (1, 2, 4, 3), (2, 2, 3), (1, 2, 4, 2), (1, 2, 4, 2), (2, 3))
    torch.library.opcheck(
        _scan_numba,
        (*(leaf(*size) for size in sizes), order, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_memory_layout_of_the_inputs_does_not_matter():
    inputs = drawn(2, 2, 8, 2, 9)
    strided = {name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in inputs.items()}
    assert not strided["u"].is_contiguous()
    for got, want in zip(scan_and_gradients(strided, "numba"), scan_and_gradients(inputs, "numba"), strict=True):
        assert torch.equal(got, want)


def test_input_and_state_matrices_may_be_shared_by_all_channels():
    inputs = drawn(2, 1, 8, 3, 9)
    shared = {**inputs, "B": inputs["B"][:, 0], "C": inputs["C"][:, 0]}
    assert torch.equal(selective_scan(**shared), selective_scan(**inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [30.0, 1e3, 1e6])
@pytest.mark.parametrize("path", ["reference", "numba"])
def test_huge_steps_stay_finite(path, size, dtype):
    inputs = drawn(1, 1, 4, 2, 20, dtype)
    inputs["delta"] = inputs["delta"].sign() * size
    for value in scan_and_gradients(inputs, path):
        assert value.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_spreads_to_later_steps_of_its_channel_alone(dtype):
    inputs = drawn(1, 1, 40, 1, 12, dtype)
    inputs["u"][0, 3, 5] = math.nan
    broken = selective_scan(**inputs, softplus=True, path="numba").isnan()
    assert broken[0, 3, 5:].all()
    assert broken.sum() == 7


def test_threads_do_not_change_a_single_bit():
    inputs = drawn(3, 4, 96, 2, 70, torch.float32)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(scan_and_gradients(inputs, "numba"))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(got, want) for got, want in zip(other, results[0], strict=True))


@pytest.mark.extended
def test_a_forked_process_scans_with_threads_of_its_own():
    program = """
import os, torch
from eyeswap.ops import selective_scan
torch.set_num_threads(3)
u = torch.rand(2, 64, 9); b = torch.rand(2, 1, 1, 9); a = -torch.rand(64, 1)
want = selective_scan(u, u, a, b, b, path="numba")
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(selective_scan(u, u, a, b, b, path="numba"), want) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


def test_half_precision_is_computed_in_float32_and_returned_as_it_came():
    inputs = drawn(1, 2, 16, 2, 30, torch.float32)
    half = {name: tensor.bfloat16() for name, tensor in inputs.items()}
    got = selective_scan(**half, softplus=True)
    want = selective_scan(**{name: tensor.float() for name, tensor in half.items()}, softplus=True)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want.bfloat16())


def test_chosen_path_is_logged_once(caplog):
    _log.cache_clear()
    inputs = drawn(1, 1, 2, 1, 3)
    with caplog.at_level(logging.INFO, logger="eyeswap.ops.selective_scan"):
        for _ in range(2):
            public_scan(**inputs)
        public_scan(**inputs, path="reference")
    assert [record.getMessage() for record in caplog.records] == [
        "selective scan on cpu: numba path",
        "selective scan on cpu: reference path",
    ]


def test_unknown_path_is_an_error_that_names_the_nearest():
    with pytest.raises(SpecError, match="Did you mean numba"):
        selective_scan(**drawn(1, 1, 2, 1, 3), path="numbaa")


def test_numba_path_refuses_tensors_elsewhere():
    inputs = {name: tensor.to("meta") for name, tensor in drawn(1, 1, 2, 1, 3).items()}
    with pytest.raises(EnvironmentProblem, match="CPU"):
        selective_scan(**inputs, path="numba")


@pytest.mark.parametrize("name", ["delta", "A", "B", "C", "D", "delta_bias"])
def test_shapes_that_do_not_fit_are_named(name):
    inputs = drawn(2, 2, 4, 3, 5)
    inputs[name] = inputs[name][..., :-1]
    with pytest.raises(ShapeError, match="is"):
        selective_scan(**inputs)


def test_channels_must_divide_into_groups():
    inputs = drawn(1, 2, 3, 1, 4)
    for name in ("B", "C"):
        inputs[name] = inputs[name].repeat(1, 2, 1, 1)
    with pytest.raises(ShapeError, match="4 groups"):
        selective_scan(**inputs)
