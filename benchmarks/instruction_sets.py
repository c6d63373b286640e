"""Time VMamba-T against a ViT-S/16 with every instruction set that this CPU has, with the C core and with numba.

    python benchmarks/instruction_sets.py        # about 4 minutes on 2 CPU cores

On a CPU with AVX-512, AVX2 alone is what torch, MKL, oneDNN, the C compiler and numba are told to use; clock rates stay
those of the machine. Both networks take turns in one process; 224 pixels, float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from measure import interleave, print_table, write_results

from backbones import TINY, network
from eyeswap.backbones.vit import ViT

BATCHES = (1, 8)
# What restricts every library that computes here to AVX2.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "CC": "cc -mno-avx512f",
    "NUMBA_CPU_NAME": "haswell",
}
CORES: dict[str, dict[str, str]] = {"C": {}, "numba": {"EYESWAP_C": "0"}}


def time_here(rounds: int) -> list[dict[str, Any]]:
    """Time both networks with what this process was told to use; return a row for each batch size."""
    rows = []
    for batch in BATCHES:
        torch.manual_seed(0)
        ours, vit, x = network(TINY), ViT(tap=-1, final_norm=True).eval(), torch.randn(batch, 3, 224, 224)
        timings = interleave(
            {"VMamba-T": lambda ours=ours, x=x: ours.feature_map(x), "ViT-S/16": lambda vit=vit, x=x: vit(x)}, rounds
        )
        row: dict[str, Any] = {"torch uses": torch.backends.cpu.get_cpu_capability(), "batch": batch}
        row |= {name: timing.median for name, timing in timings.items()}
        row["ratio"] = row["VMamba-T"] / row["ViT-S/16"]
        row["spread"] = max(timing.spread for timing in timings.values())
        rows.append(row)
    return rows


def main() -> None:
    """Start a process for each instruction set and core, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each network")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(time_here(options.rounds)))
        return
    command = [sys.executable, __file__, "--here", "--rounds", str(options.rounds)]
    results = []
    for kind, told in {"all": {}, "AVX2": AVX2}.items():
        for core, chosen in CORES.items():
            environment = {**os.environ, **told, **chosen}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            results += [{"allowed": kind, "core": core, **row} for row in json.loads(done.stdout.splitlines()[-1])]
    print_table(
        "VMamba-T against ViT-S/16, 224 pixels, float32",
        ["allowed", "torch uses", "core", "batch", "VMamba-T, ms", "ViT-S/16, ms", "ratio", "max/min"],
        [
            [
                row["allowed"], row["torch uses"], row["core"], row["batch"], f"{row['VMamba-T'] * 1e3:.0f}",
                f"{row['ViT-S/16'] * 1e3:.0f}", f"{row['ratio']:.2f}", f"{row['spread']:.2f}",
            ]
            for row in results
        ],
    )  # fmt: skip
    if options.json:
        write_results(options.json, {"instruction_sets": results})


if __name__ == "__main__":
    main()
