"""What the Triton kernels must get right, wherever they run: in the interpreter on a CPU, or on a GPU.

Run as a program under TRITON_INTERPRET=1 it makes every check and prints what failed, as JSON.
"""

import json
import math
import traceback
from unittest.mock import patch

import torch

from eyeswap.ops import (
    _triton_scan,
    _triton_ss2d,
    bidirectional_scan,
    scan_states,
    selective_scan,
    ss2d,
    ss2d_reference,
)


def tolerance(dtype):
    """A few dozen roundings of the arithmetic; half dtypes compute in float32 and round once, at the end."""
    return torch.finfo(dtype).eps * (64 if dtype in (torch.float64, torch.float32) else 1)


def error(got, want):
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    return float((got - want).norm() / want.norm().clamp(min=1e-300))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed), dtype=torch.float64)


def scan_inputs(K, Dg, S, L, softplus=True, batch=1):
    """Step sizes are positive also without softplus, or states would grow without bound."""
    delta = normal(batch, K * Dg, L, seed=1)
    return {
        "u": normal(batch, K * Dg, L),
        "delta": delta if softplus else delta.sigmoid() / 10,
        "A": -normal(K * Dg, S).exp(),
        "B": normal(batch, K, S, L, seed=2),
        "C": normal(batch, K, S, L, seed=3),
        "D": normal(K * Dg),
        "delta_bias": normal(K * Dg, seed=4) - 3 if softplus else normal(K * Dg, seed=4).sigmoid() / 10,
    }


def scan_and_gradients(inputs, path, softplus=True):
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    y, last = selective_scan(**leaves, softplus=softplus, return_last_state=True, path=path)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y)
    ((y * weights).sum() + last.square().sum()).backward()
    return [y, last, *(leaf.grad for leaf in leaves.values())]


def map_inputs(H, W, D, R, S, batch=1):
    return [
        normal(batch, H, W, D),
        normal(4, R + 2 * S, D) / D**0.5,
        normal(4, D, R) / R**0.5,
        normal(4, D) - 2,
        normal(4 * D, S),
        normal(4 * D),
    ]


def map_and_gradients(function, inputs, **options):
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y)
    (y * weights).sum().backward()
    return [y, *(leaf.grad for leaf in leaves)]


def agree(got, want, limit):
    for index, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        assert error(ours, theirs) < limit, (index, error(ours, theirs))


def check_scan(device, dtype, K, Dg, S, L, softplus=True, batch=1):
    inputs = scan_inputs(K, Dg, S, L, softplus, batch)
    got = scan_and_gradients({name: t.to(device, dtype) for name, t in inputs.items()}, "triton", softplus)
    agree(got, scan_and_gradients(inputs, "reference", softplus), tolerance(dtype))


def check_memory_layout(device):
    inputs = {name: t.to(device) for name, t in scan_inputs(2, 5, 2, 7).items()}
    strided = {name: torch.stack([t, t], -1)[..., 0] for name, t in inputs.items()}
    assert not strided["u"].is_contiguous()
    for got, want in zip(scan_and_gradients(strided, "triton"), scan_and_gradients(inputs, "triton"), strict=True):
        assert torch.equal(got, want)


def check_huge_steps(device, size):
    inputs = {name: t.to(device, torch.float32) for name, t in scan_inputs(1, 4, 2, 9).items()}
    inputs["delta"] = inputs["delta"].sign() * size
    assert all(value.isfinite().all() for value in scan_and_gradients(inputs, "triton"))


def check_nan_stays_in_its_channel(device):
    inputs = {name: t.to(device) for name, t in scan_inputs(1, 11, 1, 9).items()}
    inputs["u"][0, 3, 5] = math.nan
    broken = selective_scan(**inputs, softplus=True, path="triton").isnan()
    assert broken[0, 3, 5:].all()
    assert broken.sum() == 4


def check_map(device, dtype, H, W, D, R, S, batch=1, few=0):
    """With ``few`` 0 a program walks all directions, else one."""
    inputs = map_inputs(H, W, D, R, S, batch)
    with patch.object(_triton_ss2d, "FEW_PROGRAMS", few):
        got = map_and_gradients(ss2d, [t.to(device, dtype) for t in inputs], path="triton")
    agree(got, map_and_gradients(ss2d_reference, inputs), tolerance(dtype))


def check_half_precision_map(device, dtype, few):
    """On the same rounded inputs only the rounding of the result is left."""
    H, W, D, R, S = 5, 3, 12, 3, 2
    x, projected, weight = (t.to(dtype) for t in (normal(2, H * W, D), normal(2, H * W, 4, R + 2 * S), normal(4, D, R)))
    bias, a, skip = normal(4, D) - 2, -normal(4, S, D).exp(), normal(D)
    arguments = (x, projected, weight, *(t.float() for t in (bias, a, skip)))
    with patch.object(_triton_ss2d, "FEW_PROGRAMS", few):
        got = _triton_ss2d.ss2d_triton(*(t.to(device) for t in arguments), H, W)
    assert got.dtype == dtype
    arguments = (x.double(), projected.double(), weight.double(), bias, a, skip)
    want = _triton_ss2d.ss2d_triton(*(t.to(device) for t in arguments), H, W)
    assert error(got, want) < tolerance(dtype)


def check_small_steps(device):
    """Step sizes of 3e-4 keep their digits: log(1 + x) must not lose small x."""
    inputs = map_inputs(4, 5, 8, 2, 1)
    inputs[3] = inputs[3] - 6
    inputs[5] = torch.zeros_like(inputs[5])  # no skip connection to hide behind
    got = ss2d(*(t.to(device, torch.float32) for t in inputs), path="triton")
    assert error(got, ss2d_reference(*inputs)) < tolerance(torch.float32)


def sequence_inputs(ways, L, D, R, S, batch=2):
    drawn = [
        normal(batch, ways, L, D),
        normal(ways, R + 2 * S, D) / D**0.5,
        normal(ways, D, R) / R**0.5,
        normal(ways, D) - 2,
        normal(ways, D, S) * 0.3,
    ]
    return [*drawn, normal(ways, D)] if ways == 2 else [drawn[0][:, 0], *(tensor[0] for tensor in drawn[1:])]


def check_both_ways(device, dtype, L, D, R, S):
    """Each direction reads rows of its own, values and gradients."""
    inputs = sequence_inputs(2, L, D, R, S)
    got = map_and_gradients(bidirectional_scan, [t.to(device, dtype) for t in inputs], path="triton")
    agree(got, map_and_gradients(bidirectional_scan, inputs, path="reference"), tolerance(dtype))


def check_states(device, dtype, L, D, R):
    inputs = sequence_inputs(1, L, D, R, 1)
    got = scan_states(*(t.to(device, dtype) for t in inputs), path="triton")
    agree(got, scan_states(*inputs, path="reference"), tolerance(dtype))


def check_operators_keep_the_rules_of_torch(device):
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    inputs = [normal(*size).to(device) for size in ((1, 1, 4, 3), (1, 2, 4, 3), (2, 2, 3), (1, 2, 4, 2), (1, 2, 4, 2))]
    bias, order = normal(2, 3).to(device), torch.arange(4, device=device).expand(2, 4)
    leaves = [t.requires_grad_() for t in (*inputs, bias)]
    torch.library.opcheck(_triton_scan.scan_triton, (*leaves, order, True), test_utils=tests)
    sizes = ((1, 6, 3), (1, 6, 4, 4), (4, 3, 2), (4, 3), (4, 1, 3), (3,))
    leaves = [normal(*size).to(device).requires_grad_() for size in sizes]
    torch.library.opcheck(_triton_ss2d.ss2d_triton, (*leaves, 2, 3), test_utils=tests)


F32, F64 = torch.float32, torch.float64
CHECKS = {
    "scan, one state": (check_scan, F64, 1, 40, 1, 70),
    "scan, one step": (check_scan, F64, 2, 4, 4, 1, True, 3),
    "scan, one channel": (check_scan, F64, 1, 1, 3, 6),
    "scan, groups, odd length": (check_scan, F64, 3, 5, 3, 37),
    "scan, sixteen states": (check_scan, F64, 1, 19, 16, 33),
    "scan, without softplus": (check_scan, F64, 2, 5, 2, 20, False),
    "scan, float32": (check_scan, F32, 2, 9, 4, 40),
    "scan, strided inputs": (check_memory_layout,),
    "scan, steps of 30": (check_huge_steps, 30.0),
    "scan, steps of a million": (check_huge_steps, 1e6),
    "scan, nan": (check_nan_stays_in_its_channel,),
    "map, oblong": (check_map, F64, 5, 9, 40, 3, 1),
    "map, tall, more states": (check_map, F64, 9, 2, 3, 1, 3),
    "map, one row": (check_map, F64, 1, 37, 4, 3, 1),
    "map, one column": (check_map, F64, 8, 1, 9, 2, 1, 3),
    "map, a program a direction": (check_map, F64, 3, 11, 35, 2, 2, 1, 99),
    "map, one position": (check_map, F64, 1, 1, 4, 2, 1),
    "map, float32": (check_map, F32, 5, 8, 10, 2, 1),
    "map, bfloat16": (check_half_precision_map, torch.bfloat16, 0),
    "map, float16": (check_half_precision_map, torch.float16, 99),
    "map, small steps": (check_small_steps,),
    "both ways": (check_both_ways, F64, 19, 12, 2, 5),
    "both ways, float32": (check_both_ways, F32, 9, 5, 1, 16),
    "states": (check_states, F64, 37, 9, 2),
    "operators": (check_operators_keep_the_rules_of_torch,),
}


def run(name, device):
    check, *arguments = CHECKS[name]
    check(device, *arguments)


def mend_interpreter():
    """Scan whole rows in a tree, as a GPU does, where Triton goes one number at a time; multiply bfloat16 as numbers.

    The interpreter of Triton 3.7 takes the bits of bfloat16 for integers in a dot product.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    def scan(self, inputs):
        arrays, distance = [tensor.handle.data for tensor in inputs], 1
        length = arrays[0].shape[self.axis]
        row = np.arange(length).reshape([-1 if axis == self.axis else 1 for axis in range(arrays[0].ndim)])
        while distance < length:
            earlier = [np.roll(array, distance, self.axis) for array in arrays]
            pairs = [
                self.to_tensor(x, t.dtype) for side in (earlier, arrays) for x, t in zip(side, inputs, strict=True)
            ]
            joined = [tensor.handle.data for tensor in self.combine_fn.fn(*pairs)]
            arrays = [np.where(row < distance, *parts) for parts in zip(arrays, joined, strict=True)]
            distance *= 2
        return [self.to_tensor(array, tensor.dtype) for array, tensor in zip(arrays, inputs, strict=True)]

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    builder = interpreter.InterpreterBuilder
    multiply = builder.create_dot
    builder.create_dot = lambda self, a, b, *rest: multiply(self, widened(a), widened(b), *rest)
    interpreter.ScanOps.generic_scan = scan


def main():
    mend_interpreter()
    failures = {}
    for name in CHECKS:
        try:
            run(name, "cpu")
        except Exception:
            failures[name] = traceback.format_exc()
    print(json.dumps(failures))


if __name__ == "__main__":
    main()
