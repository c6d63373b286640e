"""Scans both ways and scans of states, on every path, against the recurrence written out."""

import pytest
import torch
import torch.nn.functional as F

from eyeswap.errors import ShapeError
from eyeswap.ops import _c_scan, bidirectional_scan, scan_states

PATHS = [
    ("c", torch.float32, 2e-6),
    ("numba", torch.float32, 2e-6),
    ("numba", torch.float64, 1e-12),
    ("reference", torch.float64, 1e-12),
]
paths = pytest.mark.parametrize(("path", "dtype", "tolerance"), PATHS, ids=lambda value: str(value))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed), dtype=torch.float64)


def both_ways(B=2, L=11, D=40, R=3, S=5):
    return [
        normal(B, 2, L, D),
        normal(2, R + 2 * S, D) / D**0.5,
        normal(2, D, R) / R**0.5,
        normal(2, D) - 2,
        normal(2, D, S) * 0.3,
        normal(2, D),
    ]


def one_way(B=2, L=11, D=40, R=3):
    return [
        normal(B, L, D),
        normal(R + 2, D) / D**0.5,
        normal(D, R) / R**0.5,
        normal(D) - 2,
        normal(D, 1) * 0.3,
    ]


def walk(x, x_proj, dt_proj, dt_bias, A_log):
    """Return all states ``[B, L, D, S]`` of one scan, step by step, and B and C."""
    R, S = dt_proj.shape[1], A_log.shape[1]
    code, b, c = F.linear(x, x_proj).split([R, S, S], dim=2)
    size = F.softplus(F.linear(code, dt_proj) + dt_bias)
    state, states = x.new_zeros(len(x), x.shape[2], S), []
    for t in range(x.shape[1]):
        decay = torch.exp(-size[:, t, :, None] * A_log.exp())
        state = decay * state + (size[:, t] * x[:, t])[..., None] * b[:, t, None]
        states.append(state)
    return torch.stack(states, 1), c


def walk_both_ways(x, x_proj, dt_proj, dt_bias, A_log, D):
    total = 0
    for k in range(2):
        rows = x[:, k] if k == 0 else x[:, k].flip(1)
        states, c = walk(rows, x_proj[k], dt_proj[k], dt_bias[k], A_log[k])
        y = torch.einsum("blds,bls->bld", states, c) + D[k] * rows
        total = total + (y if k == 0 else y.flip(1))
    return total


def error(got, want):
    return float((got.detach().double() - want.detach()).norm() / want.detach().norm())


def skip_without_core(path):
    if path == "c" and _c_scan.why_missing():
        pytest.skip(f"no C core: {_c_scan.why_missing()}")


@paths
@pytest.mark.parametrize("sizes", [{}, {"B": 1, "L": 1, "S": 1}, {"L": 30, "D": 7, "R": 1, "S": 16}])
def test_a_scan_both_ways_is_the_sum_of_two_recurrences(sizes, path, dtype, tolerance):
    skip_without_core(path)
    inputs = both_ways(**sizes)
    got = bidirectional_scan(*(tensor.to(dtype) for tensor in inputs), path=path)
    assert got.dtype == dtype
    assert error(got, walk_both_ways(*inputs)) < tolerance


@paths
@pytest.mark.parametrize("sizes", [{}, {"B": 3, "L": 2, "D": 65, "R": 1}])
def test_a_scan_of_states_returns_the_states_and_c(sizes, path, dtype, tolerance):
    skip_without_core(path)
    inputs = one_way(**sizes)
    states, c = scan_states(*(tensor.to(dtype) for tensor in inputs), path=path)
    want, want_c = walk(*inputs)
    assert error(states, want[..., 0]) < tolerance
    assert error(c, want_c) < tolerance


@pytest.mark.parametrize(
    ("function", "restated", "inputs"),
    [
        (bidirectional_scan, walk_both_ways, both_ways(D=5, L=6)),
        (lambda *x: scan_states(*x)[0], lambda *x: walk(*x)[0][..., 0], one_way(D=5, L=6)),
    ],
)
def test_gradients_are_those_of_the_recurrence(function, restated, inputs):
    gradients = []
    for call in (function, restated):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y = call(*leaves)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for got, want in zip(*gradients, strict=True):
        assert error(got, want) < 1e-12


def test_the_two_directions_do_not_share_their_weights():
    x, *weights = both_ways()
    swapped = [weight.flip(0) for weight in weights]
    turned = bidirectional_scan(x.flip(1, 2), *swapped).flip(1)
    assert error(turned, bidirectional_scan(x, *weights)) < 1e-12
    assert error(bidirectional_scan(x, *swapped), bidirectional_scan(x, *weights)) > 0.1


@pytest.mark.parametrize("function", [bidirectional_scan, scan_states])
def test_no_images_give_no_rows(function):
    inputs = [tensor.float() for tensor in (both_ways(B=0) if function is bidirectional_scan else one_way(B=0))]
    for path in ("auto", "numba", "reference"):
        got = function(*inputs, path=path)
        assert (got if function is bidirectional_scan else got[0]).shape == (0, 11, 40)


@pytest.mark.parametrize("function", [bidirectional_scan, scan_states])
def test_weights_that_do_not_fit_are_named(function):
    inputs = both_ways() if function is bidirectional_scan else one_way()
    for position in range(1, len(inputs)):
        wrong = [tensor[..., :-1] if place == position else tensor for place, tensor in enumerate(inputs)]
        with pytest.raises(ShapeError, match=f"{function.__name__}: .* is .*, expected"):
            function(*wrong)
