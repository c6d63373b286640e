"""Compile the Triton kernels for GPUs, without a GPU, and print what ptxas reports about them.

    python benchmarks/ptx.py                               # all kernels for sm_80 and sm_90, a minute of CPU time
    python benchmarks/ptx.py --only ss2d --arch 90 --json ptx.json

Kernels are compiled as a launch on real tensors compiles them: pointers and channels are multiples of 16, and the
number of warps is that of a large or a small batch. PTX is assembled by the ptxas of the Triton wheel. A register spill
is local memory traffic in every step of a scan; a load of fewer than 16 bytes per thread in the direction of the
channels is a load that the compiler could not vectorise.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eyeswap.ops._triton_math import tile_shape, warps
from eyeswap.ops._triton_scan import _scan
from eyeswap.ops._triton_scan_backward import LIVE_TILES, _backward, backward_tile
from eyeswap.ops._triton_ss2d import _ss2d

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
KERNELS = {"ss2d": _ss2d, "scan": _scan, "backward": _backward}
TILES = {"ss2d": tile_shape, "scan": tile_shape, "backward": backward_tile}
IN_BFLOAT16 = {"ss2d": ("x", "projected", "weight", "y")}  # the other tensors are float32, and orders int64
CASES = (  # kernel, states per channel, rank of the step-size code: the networks' own
    ("ss2d", 1, 6),  # VMamba
    ("ss2d", 16, 6),  # VMamba, first release
    ("scan", 1, 0),  # Spatial-Mamba
    ("scan", 8, 0),  # MambaVision
    ("scan", 16, 0),  # Vim
    ("backward", 1, 0),
    ("backward", 8, 0),
    ("backward", 16, 0),
)
MANY, FEW = 4096, 128  # programs of a launch: a batch, and a single image


@dataclass(frozen=True)
class Report:
    """What became of one kernel.

    Attributes:
        kernel: name of the kernel.
        states: states per channel.
        programs: programs of the launch, which decide the number of warps.
        arch: compute capability, 80 or 90.
        warps: warps per program.
        registers: registers per thread.
        spilled: bytes of spill stores and loads per thread.
        stack: bytes of local memory per thread.
        shared: bytes of shared memory per program.
        loads: number of global load instructions by bytes per thread.
        stores: number of global store instructions by bytes per thread.
    """

    kernel: str
    states: int
    programs: int
    arch: int
    warps: int
    registers: int
    spilled: int
    stack: int
    shared: int
    loads: dict[int, int]
    stores: dict[int, int]


def compile_kernel(name: str, states: int, rank: int, *, num_warps: int, arch: int, ones: bool = False) -> Any:
    """Compile a kernel as a launch would.

    Args:
        name: one of `KERNELS`.
        states: states per channel.
        rank: rank of the step-size code (ss2d only).
        num_warps: warps per program.
        arch: compute capability, 80 or 90.
        ones: whether all sizes are 1, which a launch turns into constants.

    Returns:
        Triton's compiled kernel, with ``asm`` and ``metadata``.
    """
    kernel = KERNELS[name]
    block_t, block_c, block_s = TILES[name](states)
    constants = {
        "STATES": states, "USE_SOFTPLUS": True, "RANK": rank, "BLOCK_R": max(16, triton.next_power_of_2(rank)),
        "DIRECTIONS": 1 if ones else 4, "BLOCK_T": block_t, "BLOCK_C": block_c, "BLOCK_S": block_s,
    }  # fmt: skip
    sizes = ("groups", "directions", "length", "channels", "height", "width")
    constants |= dict.fromkeys(sizes, 1) if ones else {}
    kinds = dict.fromkeys(sizes, "i32") | dict.fromkeys(IN_BFLOAT16.get(name, ()), "*bf16") | {"order": "*i64"}
    names = kernel.arg_names
    signature = {arg: "constexpr" if arg in constants else kinds.get(arg, "*fp32") for arg in names}
    constexprs = {(names.index(arg),): value for arg, value in constants.items() if arg in names}
    aligned = [arg for arg in names if signature[arg].startswith("*") or (arg == "channels" and not ones)]
    attributes = {(names.index(arg),): [["tt.divisibility", 16]] for arg in aligned}
    source = ASTSource(kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": num_warps})


def launch_warps(name: str, states: int, programs: int) -> int:
    """Return the warps per program of a launch of so many programs."""
    block_t, block_c, block_s = TILES[name](states)
    return warps((LIVE_TILES if name == "backward" else 1) * block_t * block_c * block_s, programs)


def examine(name: str, states: int, rank: int, programs: int, arch: int) -> Report:
    """Compile a kernel for a launch of so many programs, and read what ptxas says about it."""
    num_warps = launch_warps(name, states, programs)
    compiled = compile_kernel(name, states, rank, num_warps=num_warps, arch=arch)
    ptx = compiled.asm["ptx"]
    said = assemble(ptx, f"sm_{arch}a" if arch >= 90 else f"sm_{arch}")
    registers, stack, *spilled = (
        int(re.findall(pattern, said)[-1])
        for pattern in (
            r"Used (\d+) registers",
            r"(\d+) bytes stack frame",
            r"(\d+) bytes spill stores",
            r"(\d+) bytes spill loads",
        )
    )
    loads, stores = (access_widths(ptx, kind) for kind in ("ld", "st"))
    return Report(
        name, states, programs, arch, num_warps, registers, sum(spilled), stack, compiled.metadata.shared, loads, stores
    )


def assemble(ptx: str, architecture: str) -> str:
    """Return the messages of ``ptxas -v``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx, encoding="utf-8")
        command = [PTXAS, "-v", "--gpu-name", architecture, path, "-o", path.with_suffix(".cubin")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def access_widths(ptx: str, kind: str) -> dict[int, int]:
    """Count the global loads (``ld``) or stores (``st``) of a kernel by bytes per thread."""
    pattern = rf"\b{kind}\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[a-z](\d+)\b"
    widths = Counter(int(vector or 1) * int(bits) // 8 for vector, bits in re.findall(pattern, ptx))
    return dict(sorted(widths.items(), reverse=True))


def show(reports: list[Report]) -> None:
    """Print the reports as a Markdown table."""

    def counts(widths: dict[int, int]) -> str:
        return ", ".join(f"{number} x {width} B" for width, number in widths.items())

    print("| kernel | states | programs | arch | warps | registers | spilled B | shared B | loads | stores |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|---|")
    for row in reports:
        cells = (
            row.kernel, row.states, f"{row.programs:,}", f"sm_{row.arch}", row.warps, row.registers, row.spilled,
            f"{row.shared:,}", counts(row.loads), counts(row.stores),
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    """Compile and report the selected kernels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(KERNELS), help="compile one kernel")
    parser.add_argument("--arch", type=int, choices=(80, 90), help="for one compute capability")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    options = parser.parse_args()
    reports = [
        examine(name, states, rank, programs, arch)
        for name, states, rank in CASES
        if options.only in (None, name)
        for arch in ((80, 90) if options.arch is None else (options.arch,))
        for programs in {launch_warps(name, states, programs): programs for programs in (FEW, MANY)}.values()
    ]
    show(reports)
    if options.json is not None:
        from measure import write_results

        write_results(options.json, {"kernels": [asdict(report) for report in reports]})


if __name__ == "__main__":
    main()
