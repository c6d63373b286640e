"""Measure how long training stands still for a checkpoint, and how much slower it is while one is written.

    python benchmarks/scale/checkpointing.py              # 0.3B parameters: 9 GB of memory, 4 GB of disk, 2 minutes
    python benchmarks/scale/checkpointing.py --layers 22  # 1.1B parameters: 35 GB of memory, 13 GB of disk

The LLM has the shape of a Llama of 1.1B parameters with fewer layers, random float32 weights, and AdamW; a step is one
pass of 128 tokens. The first checkpoint also allocates the copy in memory, the second reuses it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eyeswap.processes import Ranks
from eyeswap.training.checkpoint import Checkpoints

SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where checkpoints are written (default: temporary)")
    options = parser.parse_args()
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=32_064, num_hidden_layers=options.layers, **SHAPE))
    optimizer = torch.optim.AdamW(llm.parameters(), lr=1e-5)
    ids = torch.randint(32_064, (1, 128))

    def step() -> None:
        llm(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    size = sum(parameter.numel() for parameter in llm.parameters())
    alone = [seconds(step) for _ in range(5)]
    print(f"{size / 1e9:.2f}B parameters, {torch.get_num_threads()} threads; a step: {median(alone):.2f} s", flush=True)
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        Checkpoints(Path(folder), "benchmark", Ranks(device=torch.device("cpu")), keep=1) as checkpoints,
    ):
        for number in (1, 2):
            stands = seconds(lambda number=number: checkpoints.save(llm, optimizer, number))
            began, during = time.perf_counter(), []
            while not checkpoints._writing.done():
                during.append(seconds(step))
            took = time.perf_counter() - began
            checkpoints.wait()
            print(
                f"checkpoint {number} of {12 * size / 1e9:.1f} GB: training stands {stands:.2f} s = "
                f"{stands / median(alone):.2f} steps; written in {took:.0f} s, in which {len(during)} steps of "
                f"{median(during):.2f} s (longest {max(during):.2f} s) were taken",
                flush=True,
            )


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
