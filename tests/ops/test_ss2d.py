"""SS2D against goldens of the official scan orders, and its fast form against the form of the paper."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ss2d_inputs import drawn
from torch._subclasses.fake_tensor import FakeTensorMode

from eyeswap.errors import ShapeError, SpecError
from eyeswap.ops import _c_scan, cross_merge, cross_scan, projected_scan, ss2d, ss2d_reference
from eyeswap.ops.ss2d import cross_scan_order

GOLDENS = Path(os.environ.get("EYESWAP_GOLDENS") or Path(__file__).parents[1] / "goldens" / "data")
ORDERS = json.loads(next(GOLDENS.rglob("cross_scan_orders.json")).read_text())["cases"]


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp(min=1e-300))


def with_gradients(function, inputs, **options):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y = function(*leaves, **options)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("case", ORDERS, ids=lambda case: f"{case['H']}x{case['W']}")
def test_scan_orders_and_merge_are_the_recorded_ones(case):
    height, width = case["H"], case["W"]
    assert cross_scan_order(height, width).tolist() == case["scan"]
    pixels = torch.arange(height * width).view(1, height, width, 1)
    assert cross_scan(pixels)[0, :, 0].tolist() == case["scan"]
    merged = cross_merge(torch.tensor(case["merge_in"], dtype=torch.float64)[None], height, width)
    want = torch.tensor(case["merge_out"], dtype=torch.float64).view(-1, height, width).permute(1, 2, 0)
    assert torch.allclose(merged[0], want, rtol=1e-14, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*(st.integers(1, bound) for bound in (3, 9, 9, 40, 3, 3))),
    st.sampled_from(
        [("numba", torch.float64, 1e-12), ("numba", torch.float32, 3e-5), ("reference", torch.float64, 1e-12)]
    ),
)
def test_fused_scan_agrees_with_four_copies_in_values_and_gradients(sizes, precision):
    path, dtype, tolerance = precision
    inputs = drawn(*sizes)
    want = with_gradients(ss2d_reference, inputs)
    got = with_gradients(ss2d, [tensor.to(dtype) for tensor in inputs], path=path)
    for ours, theirs in zip(got, want, strict=True):
        assert error(ours, theirs) < tolerance


@pytest.mark.parametrize(("height", "width"), [(14, 14), (5, 9), (1, 7), (8, 1), (50, 84)])
def test_official_shapes_are_accurate_in_float32(height, width):
    inputs = drawn(1, height, width, 32, 2, 1)
    assert error(ss2d(*(tensor.float() for tensor in inputs)), ss2d_reference(*inputs)) < 2e-6


def test_a_transposed_map_needs_row_and_column_directions_swapped():
    x, *weights = drawn(2, 4, 6)
    swapped = [weight.unflatten(0, (4, -1))[[1, 0, 3, 2]].flatten(0, 1) for weight in weights]
    got = ss2d(x.transpose(1, 2), *swapped).transpose(1, 2)
    assert error(got, ss2d(x, *weights)) < 1e-14
    assert error(ss2d(x.transpose(1, 2), *weights).transpose(1, 2), ss2d(x, *weights)) > 1e-2


def test_a_turned_map_needs_forward_and_backward_directions_swapped():
    x, *weights = drawn(2, 4, 6)
    swapped = [weight.unflatten(0, (4, -1))[[2, 3, 0, 1]].flatten(0, 1) for weight in weights]
    assert error(ss2d(x.flip(1, 2), *swapped).flip(1, 2), ss2d(x, *weights)) < 1e-14


def test_chunks_of_images_give_what_the_whole_batch_gives(monkeypatch):
    inputs = drawn(5, 4, 6)
    want = with_gradients(ss2d, inputs)
    monkeypatch.setattr(projected_scan, "CHUNK_BYTES", 2 * 4 * 4 * 6 * 8 * 8)  # two images
    for ours, theirs in zip(with_gradients(ss2d, inputs), want, strict=True):
        assert error(ours, theirs) < 1e-14


def test_an_image_gives_the_same_bits_whatever_its_batch():
    inputs = drawn(4, 7, 5, 48, 3, 1, torch.float32)
    alone = torch.cat([ss2d(image[None], *inputs[1:]) for image in inputs[0]])
    assert error(alone, ss2d(*inputs)) < 1e-6


def test_half_precision_maps_keep_their_dtype():
    inputs = drawn(1, 6, 6, 32)
    got = ss2d(*(tensor.bfloat16() for tensor in inputs))
    assert got.dtype == torch.bfloat16
    assert error(got, ss2d(*inputs)) < 3e-2


@pytest.mark.parametrize("position", range(6))
def test_weights_that_do_not_fit_are_named(position):
    inputs = drawn()
    inputs[position] = inputs[position][..., :-1]
    with pytest.raises(ShapeError, match="expected"):
        ss2d(*inputs)


def test_orders_made_while_sizes_are_counted_stay_real():
    with FakeTensorMode(allow_non_fake_inputs=True):
        cross_scan(torch.empty(1, 2, 7, 3))  # a size that no other test uses
    assert type(cross_scan_order(2, 7)) is torch.Tensor
    assert cross_scan_order(2, 7)[0].tolist() == list(range(14))


def grid_inputs(batch=2, height=3, width=5, D=20, R=2, S=2):
    return drawn(batch, height, width, D, R, S, spread=0.3)


def grid_restated(x, x_proj, dt_projs, dt_bias, A_logs, Ds):
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


GRID_SHAPES = [(3, 5), (5, 3), (1, 7), (7, 1), (6, 6)]


@pytest.mark.parametrize(("height", "width"), GRID_SHAPES)
def test_the_grid_scan_is_the_recurrence(height, width):
    inputs = grid_inputs(2, height, width)
    assert error(ss2d(*inputs, kind="2d"), grid_restated(*inputs)) < 1e-13


@pytest.mark.skipif(bool(_c_scan.why_missing()), reason=f"no C core: {_c_scan.why_missing()}")
@pytest.mark.parametrize(("height", "width"), GRID_SHAPES)
@pytest.mark.parametrize("states", [1, 3])
def test_the_c_core_agrees_on_grids(height, width, states):
    inputs = grid_inputs(3, height, width, S=states)
    got = ss2d(*(tensor.float() for tensor in inputs), kind="2d", path="c")
    assert error(got, grid_restated(*inputs)) < 2e-6


def test_gradients_of_the_grid_scan_are_those_of_the_recurrence():
    gradients = []
    for function, options in ((ss2d, {"kind": "2d"}), (grid_restated, {})):
        leaves = [tensor.clone().requires_grad_() for tensor in grid_inputs(1, 3, 4, 6)]
        function(*leaves, **options).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for got, want in zip(*gradients, strict=True):
        assert error(got, want) < 1e-12


def test_on_a_single_row_the_row_directions_are_plain_scans():
    inputs = grid_inputs(1, 1, 9)
    inputs[5].zero_()
    inputs[1][1::2] = 0  # directions 1 and 3 carry nothing: B is zero
    assert error(ss2d(*inputs, kind="2d"), ss2d(*inputs)) < 1e-13


def test_the_grid_scan_is_another_scan_than_the_plain_one():
    inputs = grid_inputs(1, 6, 6)
    assert error(ss2d(*inputs, kind="2d"), ss2d(*inputs)) > 0.1


def test_an_unknown_kind_is_an_error():
    with pytest.raises(SpecError, match="Did you mean 2d"):
        ss2d(*grid_inputs(), kind="2D")
