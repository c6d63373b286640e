"""Measure the memory of every process while an LLM is loaded, sharded, run and saved.

    python benchmarks/scale/loading.py                    # 1.1B parameters on 2 and 4 processes; 3 minutes and 14 GB
    python benchmarks/scale/loading.py --ranks 2 --whole  # for comparison, every process loads the whole LLM first

The LLM has the shape of a Llama of 1.1B parameters and random weights, stored in bfloat16 in a temporary folder. A
process's peak is its resident memory (``VmHWM``) above what it had before, so libraries do not count, but the pages of
the files it reads do. A layer is gathered in bfloat16. The bound is a process's share of the float32 weights, the two
largest gathered parts (a layer, and embedding and head), and 2 GB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from eyeswap.files import read_json, write_json
from eyeswap.processes import join
from eyeswap.recipe import DigitsData, Recipe
from eyeswap.shipped import llm_source
from eyeswap.training.collate import Batch
from eyeswap.training.learner import Learner
from eyeswap.training.parallel import mesh_of, shard
from eyeswap.training.saving import save_trained
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.deferred import defer_llm
from eyeswap.vlm.model import VisionLanguageModel, load_llm

SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32}
VOCABULARY = 32_064
GB = 1e9
PHASES = ("load and shard", "forward", "save")


def write_llm(folder: Path, layers: int) -> int:
    """Write a random LLM in bfloat16; return its number of parameters."""
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=4, num_hidden_layers=layers, **SHAPE)
    torch.set_default_dtype(torch.bfloat16)
    llm = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    llm.save_pretrained(folder, max_shard_size="500MB")
    AutoTokenizer.from_pretrained(llm_source("digits-llm")).save_pretrained(folder)
    write_json(folder / "eyeswap.json", {"system": ""})
    return sum(parameter.numel() for parameter in llm.parameters())


class Peak:
    """The peak of this process's resident memory since the last reading, above the first reading."""

    def __init__(self) -> None:
        self.before = self._status("VmRSS")
        self._reset()

    def read(self) -> float:
        peak = self._status("VmHWM") - self.before
        self._reset()
        return peak

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def _status(self, key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 / GB for line in lines if line.startswith(key))


def work(folder: Path, whole: bool) -> None:
    """Load, shard, run and save in this process of a group; write its peaks."""
    torch.set_num_threads(1)
    recipe = Recipe(data=DigitsData(), llm="x", precision="bf16")
    with join() as ranks:
        peak, started = Peak(), time.perf_counter()
        deferred = None if whole else defer_llm(folder / "llm", is_first=ranks.is_first)
        llm, tokenizer, prompt, weights = deferred or (*load_llm(folder / "llm"), None)
        connector = build_connector("gelu-mlp", 768, llm.config.hidden_size, seed=0)
        model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt)
        shard(learner := Learner(model), recipe, ranks.device, mesh_of(ranks), weights)
        ranks.wait()
        peaks, seconds = [peak.read()], time.perf_counter() - started
        ids = torch.arange(64)[None]
        with torch.no_grad():
            learner(Batch(ids, target_at=torch.arange(8), targets=torch.arange(8)), None, False)
        peaks.append(peak.read())
        save_trained(model, folder / "model", ranks)
        peaks.append(peak.read())
        write_json(folder / f"peaks-{ranks.rank}.json", {"peaks": peaks, "seconds": seconds})


def measure(folder: Path, ranks: int, whole: bool) -> list[dict[str, list[float]]]:
    """Run a group of processes; return what each measured."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__]
    options = ["--worker", str(folder), *(["--whole"] if whole else [])]
    # glibc would keep freed blocks of up to 32 MB for itself, which is not memory that is needed
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    subprocess.run([sys.executable, *command, *options], check=True, env={**os.environ, **settings})
    return [read_json(folder / f"peaks-{rank}.json") for rank in range(ranks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of processes")
    parser.add_argument("--layers", type=int, default=22, help="decoder layers of the LLM")
    parser.add_argument("--whole", action="store_true", help="load the whole LLM in every process first")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.whole)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numel = write_llm(folder / "llm", options.layers)
        layer = (numel - 2 * VOCABULARY * SHAPE["hidden_size"]) / options.layers
        gathered = 2 * (2 * VOCABULARY * SHAPE["hidden_size"] + layer) / GB
        print(f"{numel / GB:.2f}B parameters, float32 {4 * numel / GB:.1f} GB\n")
        print(f"| processes | bound | {' | '.join(PHASES)} | seconds to load |\n|{'---|' * (len(PHASES) + 3)}")
        for ranks in options.ranks:
            measured = measure(folder, ranks, options.whole)
            most = [max(peaks) for peaks in zip(*(row["peaks"] for row in measured), strict=True)]
            cells = [ranks, f"{4 * numel / GB / ranks + gathered + 2:.1f} GB", *(f"{peak:.1f} GB" for peak in most)]
            print(f"| {' | '.join(map(str, cells))} | {max(row['seconds'] for row in measured):.0f} |", flush=True)


if __name__ == "__main__":
    main()
