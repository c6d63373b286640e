"""Time scans and whole networks on this CPU against the way their authors compute them, and all families.

    python benchmarks/backbones.py                       # about 12 minutes on 2 CPU cores
    python benchmarks/backbones.py --only core --json core.json
    python benchmarks/backbones.py --only families       # time per token, time relative to ViT-S
    python benchmarks/backbones.py --official ../VMamba  # against a checkout of the authors' own code

Outputs are compared before anything is timed, on a map that is not square and with weights for which the scan matters
(at default initialisation it hardly affects a network's output). Candidates take turns in one run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Timing, interleave, machine, print_table, write_results
from official_vmamba import OfficialVMamba, official_core
from published_mamba import (
    PublishedStyleSpatialMamba,
    PublishedStyleVim,
    both_ways_published_style,
    states_published_style,
)
from published_style import PublishedStyleVMamba, ss2d_published_style
from torch import Tensor

from eyeswap.backbones import catalog
from eyeswap.backbones.spatial_mamba import SpatialMamba
from eyeswap.backbones.vim import Vim
from eyeswap.backbones.vit import ViT
from eyeswap.backbones.vmamba import VMamba
from eyeswap.errors import EyeswapError
from eyeswap.ops import bidirectional_scan, scan_states, ss2d
from eyeswap.ops._c_scan import why_missing

# (rows of the map, channels of the scan): the stages of VMamba-T s1l8 and of VMamba-S s2l15 at 224 pixels
STAGES = ((56, 96), (28, 192), (14, 384), (7, 768), (56, 192), (28, 384), (14, 768), (7, 1536))
SCAN_RATIO = {96: 1, 192: 2}  # width ratio of the scan, by the channels scanned in the first stage
TINY: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 8, 2), "ssm_ratio": 1.0}
SMALL: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 15, 2), "ssm_ratio": 2.0}
NETWORKS = (
    ("VMamba-T", TINY, 224, 1), ("VMamba-T", TINY, 224, 8), ("VMamba-S", SMALL, 224, 1), ("VMamba-S", SMALL, 224, 8),
    ("VMamba-S", SMALL, 512, 1),
)  # fmt: skip
MAMBAS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("Vim-T", lambda: Vim(embed_dim=192), PublishedStyleVim),
    ("Vim-S", lambda: Vim(embed_dim=384), PublishedStyleVim),
    ("Spatial-Mamba-T", SpatialMamba, PublishedStyleSpatialMamba),
)
# (scan, steps, channels, rank): a block of Vim-T and of Vim-S, and the stages of Spatial-Mamba-T, at 224 pixels
SCANS = (
    ("both ways", 197, 384, 12), ("both ways", 197, 768, 24),
    ("states", 3136, 128, 4), ("states", 784, 256, 8), ("states", 196, 512, 16),
)  # fmt: skip
FAMILIES = (
    "in1k-vit-s", "in1k-224px-maxvit-t-s3", "mambavision-t-s3", "vmamba-tiny-s1l8", "vmamba-small-s2l15", "vim-tiny",
    "vim-small", "spatial-mamba-tiny", "spatial-mamba-small", "vit-adapter-upernet-deit-s-ade20k-512",
)  # fmt: skip
Results = list[dict[str, Any]]


def core_inputs(batch: int, height: int, width: int, channels: int, rank: int) -> list[Tensor]:
    """Return a map and weights for which a scan remembers about twenty steps."""
    return [
        torch.randn(batch, height, width, channels),
        torch.randn(4, rank + 2, channels) / channels**0.5,
        torch.randn(4, channels, rank) / rank**0.5,
        torch.randn(4, channels) * 0.5 - 2,
        torch.randn(4 * channels, 1) * 0.3,
        torch.randn(4 * channels),
    ]


def check(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Check that two outputs agree.

    Raises:
        EyeswapError: with the relative difference if they do not.
    """
    difference = float((ours.float() - theirs).norm() / theirs.norm())
    if not difference < tolerance:
        raise EyeswapError(f"{name}: outputs differ by {difference:.1e} of their norm, expected below {tolerance:.0e}")


def compare(timings: dict[str, Timing], peer: str, setting: dict[str, Any]) -> Results:
    """Return one row per candidate: its timing, and its speed relative to the peer."""
    return [
        {
            **setting, "name": name, **timing.as_dict(), "peer": peer,
            "ratio": timings[peer].median / timing.median, "ratio_of_min": timings[peer].fastest / timing.fastest,
        }
        for name, timing in timings.items()
    ]  # fmt: skip


def time_core(peer: Callable[..., Tensor], peer_name: str, rounds: int) -> Results:
    """Time the SS2D core alone: projections, scan and merge, all stages, batches 1 and 8."""
    paths = ["numba"] if why_missing() else ["c", "numba"]
    check_core(peer, paths)
    results: Results = []
    for stage, (side, channels) in enumerate(STAGES):
        for batch in (1, 8):
            ratio = SCAN_RATIO[STAGES[stage // 4 * 4][1]]
            x, *weights = core_inputs(batch, side, side, channels, channels // ratio // 16)
            channels_first = x.permute(0, 3, 1, 2).contiguous()
            candidates = {peer_name: lambda x=channels_first, w=weights: peer(x, *w)}
            for path in paths:
                candidates[path] = lambda x=x, w=weights, path=path: ss2d(x, *w, path=path)
            if stage == 0:
                candidates[f"{paths[0]}, 1 thread"] = with_one_thread(candidates[paths[0]])
            timings = interleave(candidates, rounds if batch == 1 else max(3, rounds // 2))
            results += compare(timings, peer_name, {"side": side, "channels": channels, "batch": batch})
    return results


def check_core(peer: Callable[..., Tensor], paths: list[str]) -> None:
    """Compare the core with the peer on a map that is not square."""
    for channels in (96, 768):
        x, *weights = core_inputs(2, 5, 9, channels, channels // 16)
        theirs = peer(x.permute(0, 3, 1, 2).contiguous(), *weights).permute(0, 2, 3, 1)
        for path in paths:
            check(f"core, path {path}, {channels} channels", ss2d(x, *weights, path=path), theirs, 1e-5)


def with_one_thread(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call restricted to one thread."""

    def alone() -> object:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return call()
        finally:
            torch.set_num_threads(threads)

    return alone


def time_networks(official: Path | None, peer_name: str, rounds: int) -> Results:
    """Time whole networks in float32, and in bfloat16 with a float32 scan; VMamba-T is compared with a ViT-S/16."""
    results: Results = []
    for name, architecture, side, batch in NETWORKS:
        ours = network(architecture)
        peer = PublishedStyleVMamba(ours) if official is None else OfficialVMamba(official, ours, architecture)
        half = network(architecture).to(torch.bfloat16)
        half.load_state_dict(ours.state_dict())
        odd, x = torch.randn(1, 3, 96, 160), torch.randn(batch, 3, side, side)
        check(name, ours.feature_map(odd), peer(odd).permute(0, 2, 3, 1), 2e-5)
        check(f"{name}, bfloat16", half.feature_map(odd.bfloat16()), peer(odd).permute(0, 2, 3, 1), 5e-2)
        candidates = {
            peer_name: lambda peer=peer, x=x: peer(x),
            "ours": lambda ours=ours, x=x: ours.feature_map(x),
            "ours, bf16 network": lambda half=half, x=x: half.feature_map(x.bfloat16()),
        }
        if side == 224 and architecture is TINY:
            vit = ViT(tap=-1, final_norm=True).eval()
            candidates["ViT-S/16"] = lambda vit=vit, x=x: vit(x)
        timings = interleave(candidates, rounds if batch == 1 and side == 224 else max(3, rounds // 2))
        results += compare(timings, peer_name, {"network": name, "pixels": side, "batch": batch})
    return results


def network(architecture: dict[str, Any]) -> VMamba:
    """Return a network up to the last block of stage 4, with perturbed scan weights."""
    torch.manual_seed(0)
    built = VMamba(**architecture, tap=(4, -1), norm="none").eval()
    for key, value in built.named_parameters():
        if key.endswith(("x_proj_weight", "dt_projs_bias", "A_logs", "Ds")):
            value.data += 0.3 * torch.randn_like(value) * (0.1 if "x_proj" in key else 1)
    return built.requires_grad_(False)


def perturbed(built: Any) -> Any:
    """Return a network in eval mode with perturbed scan weights."""
    for key, value in built.named_parameters():
        if any(part in key for part in ("x_proj", "dt_proj", "A_", "D", "state_fusion")) and "dwconv" not in key:
            value.data += 0.2 * torch.randn_like(value)
    return built.eval().requires_grad_(False)


def time_scans(rounds: int) -> Results:
    """Time the scans of a Vim block and of a Spatial-Mamba block alone, at batch 8, after comparing outputs."""
    results: Results = []
    for kind, steps, channels, rank in SCANS:
        ways, states = (2, 16) if kind == "both ways" else (1, 1)
        drawn = [
            torch.randn(8, ways, steps, channels),
            torch.randn(ways, rank + 2 * states, channels) / channels**0.5,
            torch.randn(ways, channels, rank) / rank**0.5,
            torch.randn(ways, channels) * 0.5 - 2,
            torch.randn(ways, channels, states) * 0.3,
        ]
        candidates: dict[str, Callable[[], Any]] = {}
        if kind == "both ways":
            drawn.append(torch.randn(ways, channels))
            candidates["authors' way"] = lambda w=drawn: both_ways_published_style(*w)
        else:
            drawn = [drawn[0][:, 0], *(tensor[0] for tensor in drawn[1:])]
            candidates["authors' way"] = lambda w=drawn: states_published_style(*w)
        for path in ["numba"] if why_missing() else ["c", "numba"]:
            candidates[path] = (
                (lambda w=drawn, path=path: bidirectional_scan(*w, path=path))
                if kind == "both ways"
                else (lambda w=drawn, path=path: scan_states(*w, path=path)[0])
            )
            check(f"{kind}, path {path}, {channels} channels", candidates[path](), candidates["authors' way"](), 1e-5)
        timings = interleave(candidates, max(3, rounds // 2))
        results += compare(timings, "authors' way", {"scan": kind, "steps": steps, "channels": channels})
    return results


def time_mambas(rounds: int) -> Results:
    """Time whole Vim and Spatial-Mamba networks up to the tap, batch 8, 224 pixels, after comparing outputs."""
    results: Results = []
    for name, make, restate in MAMBAS:
        torch.manual_seed(0)
        ours = perturbed(make())
        peer, odd, x = restate(ours), torch.randn(1, 3, 96, 160), torch.randn(8, 3, 224, 224)
        check(name, ours(odd), peer(odd).reshape(1, -1, ours.embed_dim), 2e-5)
        candidates = {"authors' way": lambda peer=peer, x=x: peer(x), "ours": lambda ours=ours, x=x: ours(x)}
        timings = interleave(candidates, max(3, rounds // 2))
        results += compare(timings, "authors' way", {"network": name, "pixels": 224, "batch": 8})
    return results


def time_families(rounds: int) -> Results:
    """Time all families up to the tap, one image on their own canvas: time per token and relative to ViT-S."""
    candidates: dict[str, Callable[[], object]] = {}
    facts = {name: catalog.entry(name) for name in FAMILIES}
    for name, entry in facts.items():
        torch.manual_seed(0)
        built, x = entry.build().freeze(), torch.randn(1, 3, *entry.geometry.canvas)
        candidates[name] = lambda built=built, x=x: built(x)
    timings = interleave(candidates, rounds)
    results = compare(timings, FAMILIES[0], {})
    for row in results:
        rows, columns = facts[row["name"]].measured().tokens
        row |= {"tokens": rows * columns, "us_a_token": row["median_s"] / (rows * columns) * 1e6}
        row["over_vit_s"] = 1 / row["ratio"]
    return results


def show_families(results: Results) -> None:
    """Print the families as a table."""
    rows = [
        [
            row["name"], row["tokens"], f"{row['median_s'] * 1e3:.1f}", f"{row['min_s'] * 1e3:.1f}",
            f"{row['spread']:.2f}", f"{row['us_a_token']:.0f}", f"{row['over_vit_s']:.2f}",
        ]
        for row in results
    ]  # fmt: skip
    columns = ["", "tokens", "median ms", "min ms", "max/min", "us per token", "over ViT-S"]
    print_table("Families up to the tap, one image", columns, rows)


def show(title: str, keys: list[str], results: Results) -> None:
    """Print results as a table."""
    rows = [
        [
            *(row[key] for key in keys), row["name"], f"{row['median_s'] * 1e3:.2f}", f"{row['min_s'] * 1e3:.2f}",
            f"{row['spread']:.2f}", f"{row['ratio']:.1f}x", f"{row['ratio_of_min']:.1f}x",
        ]
        for row in results
    ]  # fmt: skip
    print_table(title, [*keys, "", "median ms", "min ms", "max/min", "faster", "(of min)"], rows)


def main() -> None:
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("core", "networks", "scans", "families"), help="run one part")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each candidate (half as many at batch 8)")
    parser.add_argument("--official", type=Path, help="a checkout of MzeroMiko/VMamba to compare with")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    options = parser.parse_args()
    torch.manual_seed(0)
    peer_name = "authors' code" if options.official else "authors' way"
    facts = machine()
    print(f"{facts['cpu']}, {facts['num_threads']} threads, torch {facts['packages']['torch']}, float32 unless noted")
    print(f"C core: {why_missing() or 'compiled'}")
    results: dict[str, Results] = {}
    with torch.inference_mode():
        if options.only in (None, "core"):
            peer = official_core(options.official) if options.official else ss2d_published_style
            results["core"] = time_core(peer, peer_name, options.rounds)
            show("SS2D core", ["side", "channels", "batch"], results["core"])
        if options.only in (None, "networks"):
            results["networks"] = time_networks(options.official, peer_name, options.rounds)
            results["networks"] += time_mambas(options.rounds)
            show("Whole networks", ["network", "pixels", "batch"], results["networks"])
        if options.only in (None, "scans"):
            results["scans"] = time_scans(options.rounds)
            show("Scans, batch 8", ["scan", "steps", "channels"], results["scans"])
        if options.only in (None, "families"):
            results["families"] = time_families(options.rounds)
            show_families(results["families"])
    write_results(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except EyeswapError as problem:
        sys.exit(f"error: {problem}")
