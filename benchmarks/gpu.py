"""Time the SS2D core and whole backbones on a CUDA GPU, in bfloat16.

    python benchmarks/gpu.py                          # everything, a few minutes
    python benchmarks/gpu.py --only core --json core.json
    python benchmarks/gpu.py --only networks --batch 64

Outputs are compared before anything is timed, those of the core on a map that is not square and with weights for which
the scan matters. Calls are timed by CUDA events, candidates take turns, and the L2 cache is flushed before each call of
the core. If the authors' CUDA extension (``selective_scan_cuda_oflex``) can be imported, it is timed too, with the four
copies that it needs. Without a CUDA GPU: one line, and exit code 2.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import Timing, print_table, write_results
from torch import Tensor, nn

from eyeswap.backbones import catalog
from eyeswap.errors import EyeswapError
from eyeswap.ops import cross_merge, cross_scan, ss2d, ss2d_reference

DEVICE = "cuda"
CHECKED = (2, 5, 9, 96)  # batch, height, width, channels of the map on which the core's paths are compared
COPY_BYTES = 2**30
OFFICIAL = "selective_scan_cuda_oflex"
STAGES = ((56, 96), (28, 192), (14, 384), (7, 768), (56, 192), (28, 384), (14, 768), (7, 1536))
NETWORKS = {  # name: catalog entries for 224 and 512 pixels, up to the tap
    "VMamba-T": ("vmamba-tiny-s1l8", "vmamba-tiny-s1l8"),
    "VMamba-S": ("vmamba-small-s2l15", "vmamba-small-s2l15"),
    "MambaVision-T": ("mambavision-t-s3", "mambavision-t-s3"),
    "ViT-S/16": ("in1k-vit-s", "in1k-vit-s"),
    "MaxViT-T": ("in1k-224px-maxvit-t-s3", "in1k-512px-maxvit-t-s3"),
    "ViTDet-B": ("vitdet-b-maskrcnn", "vitdet-b-maskrcnn"),
    "ViT-Adapter-S": ("vit-adapter-upernet-deit-s-ade20k-512", "vit-adapter-upernet-deit-s-ade20k-512"),
}
Call = Callable[[], object]
Results = list[dict[str, Any]]


def in_turns(candidates: Mapping[str, Call], rounds: int, *, flush: bool = False) -> dict[str, Timing]:
    """Call every candidate once per round, reversing the order every round; time each call by CUDA events."""
    names = list(candidates)
    trash = torch.empty(COPY_BYTES // 4 if flush else 1, dtype=torch.uint8, device=DEVICE)
    events: dict[str, list[tuple[Any, Any]]] = {name: [] for name in names}
    for number in range(-2, rounds):  # two warm-up rounds
        for name in names if number % 2 == 0 else reversed(names):
            trash.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            candidates[name]()
            stop.record()
            if number >= 0:
                events[name].append((start, stop))
        torch.cuda.synchronize()
    return {name: Timing(tuple(a.elapsed_time(b) / 1e3 for a, b in pairs)) for name, pairs in events.items()}


def check(name: str, got: Tensor, want: Tensor, tolerance: float) -> float:
    """Return the relative difference of two outputs.

    Raises:
        EyeswapError: if it is too large.
    """
    difference = float((got.double() - want.double()).norm() / want.double().norm())
    if not difference < tolerance:
        raise EyeswapError(f"{name}: outputs differ by {difference:.1e} of their norm, expected below {tolerance:.0e}")
    return difference


def bandwidth() -> float:
    """Return the bytes per second of a large copy, counting reads and writes."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / in_turns({"copy": lambda: target.copy_(source)}, 10)["copy"].median


def core_inputs(batch: int, height: int, width: int, channels: int, states: int = 1) -> list[Tensor]:
    """Return a float32 map and weights for which a scan remembers about twenty steps."""
    rank = -(-channels // 16)
    drawn = [
        torch.randn(batch, height, width, channels),
        torch.randn(4, rank + 2 * states, channels) / channels**0.5,
        torch.randn(4, channels, rank) / rank**0.5,
        torch.randn(4, channels) * 0.5 - 2,
        torch.randn(4 * channels, states) * 0.3,
        torch.randn(4 * channels),
    ]
    return [tensor.to(DEVICE) for tensor in drawn]


class OfficialScan(torch.autograd.Function):
    """The authors' CUDA kernels, forward and backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        y, states, *_ = importlib.import_module(OFFICIAL).fwd(*inputs, True, 1, True)
        ctx.save_for_backward(*inputs, states)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        *inputs, states = ctx.saved_tensors
        return tuple(importlib.import_module(OFFICIAL).bwd(*inputs, grad_y.contiguous(), states, True, 1)[:7])


def ss2d_official(x: Tensor, x_proj: Tensor, dt_projs: Tensor, dt_bias: Tensor, a_logs: Tensor, skip: Tensor) -> Tensor:
    """Scan ``[B, H, W, D]`` with the authors' kernels: four copies, projections, their scan, merge."""
    height, width, channels = x.shape[1:]
    rank, states = dt_projs.shape[2], a_logs.shape[1]
    scans = cross_scan(x).flatten(1, 2)  # [B, 4*D, L]
    projected = F.conv1d(scans, x_proj.reshape(-1, channels, 1), groups=4).unflatten(1, (4, -1))
    code, b, c = (part.contiguous() for part in projected.split([rank, states, states], dim=2))
    delta = F.conv1d(code.flatten(1, 2), dt_projs.reshape(-1, rank, 1), groups=4)
    a, skip, bias = -torch.exp(a_logs.float()), skip.float(), dt_bias.flatten().float()
    y = OfficialScan.apply(scans.contiguous(), delta, a, b, c, skip, bias)
    return cross_merge(y.unflatten(1, (4, -1)), height, width).to(x.dtype)


def core_candidates() -> dict[str, Callable[..., Tensor]]:
    """Return the candidates on this machine, after comparing values and gradients with the float64 reference."""
    candidates: dict[str, Callable[..., Tensor]] = {"reference": ss2d_reference}
    if importlib.util.find_spec(OFFICIAL) is not None:
        candidates["authors' CUDA"] = ss2d_official
    candidates["fused"] = functools.partial(ss2d, path="triton")
    for states in (1, 4):
        inputs = core_inputs(*CHECKED, states)
        want = with_gradients(ss2d_reference, [tensor.double() for tensor in inputs])
        for name, function in candidates.items():
            for got, wanted in zip(with_gradients(function, inputs), want, strict=True):
                check(f"core, {name}, {states} states", got, wanted, 1e-4)
    return candidates


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of half its square by all inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    y.backward(y.detach())
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def time_core(batch: int, rounds: int) -> Results:
    """Time the core of every stage, forward and forward plus backward, against the time to move its bytes."""
    candidates, rate = core_candidates(), bandwidth()
    print(f"copies move {rate / 1e12:.2f} TB/s")
    results: Results = []
    for side, channels in STAGES:
        inputs = [tensor.bfloat16() for tensor in core_inputs(batch, side, side, channels)]
        code = side * side * batch * 4 * (inputs[2].shape[2] + 2)
        for passes, maps, codes in (("forward", 2, 2), ("both", 5, 4)):  # both: x twice, y, and the gradients of both
            floor_s = 2 * (maps * inputs[0].numel() + codes * code) / rate
            calls = {name: functools.partial(run_core, call, inputs, passes) for name, call in candidates.items()}
            timings = in_turns(calls, rounds, flush=True)
            results += [
                {
                    "side": side, "channels": channels, "batch": batch, "passes": passes, "name": name,
                    **timing.as_dict(), "faster": timings["reference"].median / timing.median,
                    "floor_s": floor_s, "times_floor": timing.median / floor_s,
                }
                for name, timing in timings.items()
            ]  # fmt: skip
    return results


def run_core(function: Callable[..., Tensor], inputs: list[Tensor], passes: str) -> None:
    """Run one forward without gradients, or a forward and a backward."""
    if passes == "both":
        with_gradients(function, inputs)
    else:
        with torch.no_grad():
            function(*inputs)


def network(name: str, pixels: int) -> nn.Module:
    """Return a bfloat16 channels-last network, truncated after its tap, with fresh weights."""
    torch.manual_seed(0)
    entry = catalog.entry(NETWORKS[name][pixels == 512])
    return entry.build().freeze().to(DEVICE, torch.bfloat16, memory_format=torch.channels_last)


def images(batch: int, pixels: int) -> Tensor:
    """Return random images, channels-last."""
    drawn = torch.randn(batch, 3, pixels, pixels, device=DEVICE, dtype=torch.bfloat16)
    return drawn.contiguous(memory_format=torch.channels_last)


def graphed(model: nn.Module, pixel_values: Tensor) -> Call:
    """Capture a forward pass as a CUDA graph and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(pixel_values)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        features = model(pixel_values)

    def replay() -> Tensor:
        graph.replay()
        return features

    return replay


def time_networks(batch: int, rounds: int, *, compiled: bool, latency: bool) -> Results:
    """Time all families: batches of 224 and 512 pixels, or a single image of 224 pixels, also as a CUDA graph."""
    results: Results = []
    for name in NETWORKS:
        for pixels in (224,) if latency else (224, 512):
            model, pixel_values = network(name, pixels), images(1 if latency else batch, pixels)
            small = pixel_values[:2]
            wanted = network(name, pixels).float()(small.float())
            error = check(f"{name}, {pixels} pixels", model(small), wanted, 5e-2)
            calls: dict[str, Call] = {"eager": functools.partial(model, pixel_values)}
            if latency:
                calls["CUDA graph"] = graphed(model, pixel_values)
            if compiled:
                fast = torch.compile(model, fullgraph=True, dynamic=False)
                check(f"{name}, {pixels} pixels, compiled", fast(pixel_values)[:2], wanted, 5e-2)
                calls["compiled"] = functools.partial(fast, pixel_values)
                if latency:
                    calls["compiled, CUDA graph"] = graphed(fast, pixel_values)
            for mode, timing in in_turns(calls, rounds).items():
                per_second = len(pixel_values) / timing.median
                setting = {"network": name, "pixels": pixels, "batch": len(pixel_values), "mode": mode}
                results.append({**setting, **timing.as_dict(), "images_per_s": per_second, "error": error})
    return results


def show_core(results: Results) -> None:
    rows = [
        [
            row["side"], row["channels"], row["passes"], row["name"], *milliseconds(row), f"{row['faster']:.1f}x",
            f"{row['floor_s'] * 1e3:.3f}", f"{row['times_floor']:.1f}x",
        ]
        for row in results
    ]  # fmt: skip
    titles = ["side", "channels", "passes", "", "median ms", "min ms", "max/min", "faster", "bytes ms", "of bytes"]
    print_table(f"SS2D core, bfloat16, batch {results[0]['batch']}", titles, rows)


def show_networks(title: str, results: Results) -> None:
    rows = [
        [
            row["network"], row["pixels"], row["mode"], *milliseconds(row), f"{row['images_per_s']:,.0f}",
            f"{row['error']:.0e}",
        ]
        for row in results
    ]  # fmt: skip
    print_table(title, ["network", "pixels", "", "median ms", "min ms", "max/min", "images/s", "off float32"], rows)


def milliseconds(row: dict[str, Any]) -> list[str]:
    return [f"{row['median_s'] * 1e3:.3f}", f"{row['min_s'] * 1e3:.3f}", f"{row['spread']:.2f}"]


def main() -> None:
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("core", "networks", "latency"), help="run one part")
    parser.add_argument("--batch", type=int, default=128, help="batch size of the core and the networks")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each candidate")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU, and torch sees none here", file=sys.stderr)
        raise SystemExit(2)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # TF32 would blur the float32 references
    device = torch.cuda.get_device_properties(0)
    triton = importlib.import_module("triton").__version__
    print(f"{device.name}, torch {torch.__version__}, CUDA {torch.version.cuda}, Triton {triton}")
    results: dict[str, Any] = {"gpu": device.name, "cuda": torch.version.cuda, "triton": triton}
    compiled = not options.no_compile
    if options.only in (None, "core"):
        results["core"] = time_core(options.batch, max(3, options.rounds // 2))
        show_core(results["core"])
    with torch.no_grad():
        if options.only in (None, "networks"):
            results["networks"] = time_networks(options.batch, options.rounds, compiled=compiled, latency=False)
            show_networks(f"Whole networks up to the tap, bfloat16, batch {options.batch}", results["networks"])
        if options.only in (None, "latency"):
            results["latency"] = time_networks(1, 5 * options.rounds, compiled=compiled, latency=True)
            show_networks("One image, bfloat16", results["latency"])
    write_results(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except EyeswapError as problem:
        sys.exit(f"error: {problem}")
