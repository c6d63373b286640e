"""The Triton kernels on a GPU: what the interpreter checks, and what only a GPU can show."""

import importlib.util
import math

import pytest
import torch
from triton_checks import CHECKS, error, map_inputs, normal, run, scan_and_gradients, scan_inputs, tolerance

from eyeswap.ops import ss2d, ss2d_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


@pytest.fixture
def poisoned():
    """Leave NaN in the memory that the next tensors get, so that a value that is never written shows."""
    torch.cuda.empty_cache()
    blocks = [torch.full((2**size,), math.nan, device="cuda") for size in range(8, 26) for _ in range(4)]
    del blocks


def on_gpu(tensors, dtype=torch.float32, device="cuda"):
    return [tensor.to(device, dtype) for tensor in tensors]


@pytest.mark.parametrize("name", CHECKS)
def test_kernels_agree_with_the_references(name, poisoned):
    run(name, "cuda")


@pytest.mark.parametrize(
    ("height", "width", "channels", "rank", "states"),
    [(56, 56, 96, 6, 1), (14, 14, 384, 24, 1), (7, 7, 1536, 96, 1), (50, 84, 40, 3, 1), (28, 28, 96, 6, 16)],
)
def test_official_shapes_are_accurate(height, width, channels, rank, states, poisoned):
    inputs = map_inputs(height, width, channels, rank, states)
    want = ss2d_reference(*on_gpu(inputs, torch.float64))
    assert error(ss2d(*on_gpu(inputs)), want) < tolerance(torch.float32)


@pytest.mark.parametrize("images", [1, 300])  # four warps a program, or one
def test_races_would_show_in_the_bits(images, poisoned):
    inputs = on_gpu(map_inputs(13, 17, 160, 5, 2, images))
    first = ss2d(*inputs)
    assert all(torch.equal(ss2d(*inputs), first) for _ in range(30))
    assert error(ss2d(inputs[0][:1], *inputs[1:]), first[:1]) < tolerance(torch.float32)


def test_gradients_have_the_same_bits_every_time(poisoned):
    inputs = {name: t.to("cuda", torch.float32) for name, t in scan_inputs(4, 100, 4, 300, batch=3).items()}
    first = scan_and_gradients(inputs, "triton")
    for _ in range(10):
        assert all(torch.equal(a, b) for a, b in zip(scan_and_gradients(inputs, "triton"), first, strict=True))


def test_kernels_run_on_the_current_stream():
    inputs = on_gpu(map_inputs(30, 30, 64, 4, 1, 8))
    want = ss2d(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        moved = inputs[0].clone()
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would overtake
        moved.mul_(2)
        got = ss2d(moved, *inputs[1:])
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got, ss2d(inputs[0] * 2, *inputs[1:]))
    assert not torch.equal(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_kernels_run_where_their_tensors_are():
    inputs = map_inputs(5, 6, 32, 2, 1)
    assert torch.equal(ss2d(*on_gpu(inputs, device="cuda:1")).cpu(), ss2d(*on_gpu(inputs, device="cuda:0")).cpu())


def test_a_cuda_graph_replays_the_scan():
    inputs = on_gpu(map_inputs(14, 14, 96, 6, 1, 2), torch.bfloat16)
    with torch.no_grad():
        want = ss2d(*inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = ss2d(*inputs)
        inputs[0].mul_(2)
        graph.replay()
        assert torch.equal(got, ss2d(*inputs))
        assert not torch.equal(got, want)


@pytest.mark.slow
def test_offsets_may_pass_two_to_the_31():
    side, channels = 4, 64
    images = 2**31 // (side * side * channels) + 3
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    weights = on_gpu(map_inputs(side, side, channels, 2, 1), torch.bfloat16)[1:]
    tail = normal(3, side, side, channels).to("cuda", torch.bfloat16)
    maps = torch.zeros(images, side, side, channels, device="cuda", dtype=torch.bfloat16)
    maps[-3:] = tail
    with torch.no_grad():
        assert error(ss2d(maps, *weights)[-3:], ss2d(tail, *weights)) < tolerance(torch.bfloat16)
