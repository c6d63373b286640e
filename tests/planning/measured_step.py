"""Measure real training steps of small groups of processes: python measured_step.py LLM FOLDER.

Every process is a fork of this one. Each writes by how much its resident memory peaked in its second step, above what
it was before the model was built, to ``<ranks>-<rank>.json``.
"""

import os
import socket
import sys
import traceback
from pathlib import Path

import torch

from eyeswap.files import write_json
from eyeswap.processes import Ranks, join
from eyeswap.recipe import DigitsData, Recipe
from eyeswap.training.collate import Batch
from eyeswap.training.learner import Learner
from eyeswap.training.parallel import mesh_of, shard
from eyeswap.training.step import build_optimizer
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.deferred import DeferredWeights, build_without_weights
from eyeswap.vlm.llm import load_config, load_tokenizer
from eyeswap.vlm.model import VisionLanguageModel

TEXT, GRID, WIDTH = 700, (14, 14), 64


class Zeros(DeferredWeights):
    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        rows, *others = SHAPES[name]
        return torch.zeros(len(range(rows)[start:stop]), *others, dtype=torch.bfloat16)


SHAPES: dict[str, torch.Size] = {}


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measured(folder: Path, ranks: Ranks) -> int:
    """Return the peak of the second of two steps, in bytes."""
    before = resident("VmRSS")
    llm = build_without_weights(load_config(folder))
    SHAPES.update({name: parameter.shape for name, parameter in llm.named_parameters()})
    tokenizer, prompt = load_tokenizer(folder)
    connector = build_connector("gelu-mlp", WIDTH, llm.config.hidden_size, seed=0, grid=GRID)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt)
    recipe = Recipe(data=DigitsData(), llm="x", precision="fp32")
    learner = Learner(model.train())
    shard(learner, recipe, ranks.device, mesh_of(ranks), Zeros(dict.fromkeys(SHAPES, Path())))
    optimizer = build_optimizer(learner, 0.0)
    ids = torch.tensor([[model.config.image_token_id] * 196 + [5] * TEXT])
    batch = Batch(ids, target_at=torch.arange(196, 196 + TEXT), targets=torch.full((TEXT,), 5))
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")
        learner(batch, torch.zeros(1, 196, WIDTH), True).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return resident("VmHWM") - before


def child(llm: Path, folder: Path, rank: int, count: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with join() as ranks:
        measured(llm, ranks)  # what libraries allocate once does not count
        write_json(folder / f"{count}-{rank}.json", measured(llm, ranks))


def main() -> None:
    torch.set_num_threads(1)
    llm, folder = map(Path, sys.argv[1:])
    build_without_weights(load_config(llm))  # imports once what is imported late
    for count in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(count):
            process = os.fork()
            if not process:
                try:
                    child(llm, folder, rank, count, port)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(process)
        if any(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children):
            sys.exit(1)


if __name__ == "__main__":
    main()
