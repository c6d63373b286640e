"""The two-dimensional scan against its recurrence written out cell by cell."""

import pytest
import torch
import torch.nn.functional as F

from eyeswap.errors import SpecError
from eyeswap.ops import _c_scan, cross_merge, cross_scan, ss2d


def drawn(batch=2, height=3, width=5, D=20, R=2, S=2):
    generator = torch.Generator().manual_seed(height * 100 + width)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        normal(batch, height, width, D),
        normal(4, R + 2 * S, D) / D**0.5,
        normal(4, D, R) / R**0.5,
        normal(4, D) - 2,
        normal(4 * D, S) * 0.3,
        normal(4 * D),
    ]


def restated(x, x_proj, dt_projs, dt_bias, A_logs, Ds):
    """Four copies of the map, each walked along its rows and down its columns, one cell at a time."""
    (height, width), (D, R), S = x.shape[1:3], dt_projs.shape[1:], A_logs.shape[1]
    outputs = []
    for k, rows in enumerate(cross_scan(x).unbind(1)):  # [B, D, L]
        columns = width if k % 2 == 0 else height
        rows = rows.transpose(1, 2)
        code, b, c = F.linear(rows, x_proj[k]).split([R, S, S], dim=2)
        size = F.softplus(F.linear(code, dt_projs[k]) + dt_bias[k])
        a = -A_logs.view(4, D, S)[k].exp()
        above, along, y = [0] * columns, 0, []
        for t in range(rows.shape[1]):
            decay = torch.exp(size[:, t, :, None] * a)
            along = decay * (along if t % columns else 0) + (size[:, t] * rows[:, t])[..., None] * b[:, t, None]
            above[t % columns] = decay * above[t % columns] + along
            y.append((above[t % columns] * c[:, t, None]).sum(2) + Ds.view(4, D)[k] * rows[:, t])
        outputs.append(torch.stack(y, 2))
    return cross_merge(torch.stack(outputs, 1), height, width)


def error(got, want):
    return float((got.detach().double() - want.detach()).norm() / want.detach().norm())


SHAPES = [(3, 5), (5, 3), (1, 7), (7, 1), (6, 6)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_scan_is_the_recurrence(height, width):
    inputs = drawn(2, height, width)
    assert error(ss2d(*inputs, kind="2d"), restated(*inputs)) < 1e-13


@pytest.mark.skipif(bool(_c_scan.why_missing()), reason=f"no C core: {_c_scan.why_missing()}")
@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("states", [1, 3])
def test_the_c_core_agrees(height, width, states):
    inputs = drawn(3, height, width, S=states)
    got = ss2d(*(tensor.float() for tensor in inputs), kind="2d", path="c")
    assert error(got, restated(*inputs)) < 2e-6


def test_gradients_are_those_of_the_recurrence():
    gradients = []
    for function, options in ((ss2d, {"kind": "2d"}), (restated, {})):
        leaves = [tensor.clone().requires_grad_() for tensor in drawn(1, 3, 4, 6)]
        function(*leaves, **options).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for got, want in zip(*gradients, strict=True):
        assert error(got, want) < 1e-12


def test_on_a_single_row_the_row_directions_are_plain_scans():
    inputs = drawn(1, 1, 9)
    inputs[5].zero_()
    inputs[1][1::2] = 0  # directions 1 and 3 carry nothing: B is zero
    assert error(ss2d(*inputs, kind="2d"), ss2d(*inputs)) < 1e-13


def test_it_is_another_scan_than_the_plain_one():
    inputs = drawn(1, 6, 6)
    assert error(ss2d(*inputs, kind="2d"), ss2d(*inputs)) > 0.1


def test_an_unknown_kind_is_an_error():
    with pytest.raises(SpecError, match="Did you mean 2d"):
        ss2d(*drawn(), kind="2D")
