"""One process of a tiny training under torchrun: restarted_training.py TINY_LLM FOLDER [killed].

`killed`: in the first two tries another process kills itself, after another step. Leaves ``train.jsonl`` and
``tries.txt``, the number of processes of each try.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from tiny_run import fresh, recipe, tiny_data, train

from eyeswap.processes import join
from eyeswap.recipe import Execution


def main() -> None:
    torch.set_num_threads(1)
    llm, folder, fault = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    with join() as ranks:
        if ranks.is_first:
            with (folder / "tries.txt").open("a") as tries:
                tries.write(f"{ranks.size}\n")

        def strike(done: int, _note: str) -> None:
            if fault == "killed" and attempt < 2 and ranks.rank == attempt and done == attempt + 1:
                os.kill(os.getpid(), signal.SIGKILL)

        chosen = recipe(lr=1e-3, num_epochs=1)
        model = fresh(llm)
        often = Execution(tokens_per_pass=48, checkpoint_every_s=0)
        train(model, tiny_data(model, chosen), chosen, folder, "d", execution=often, report=strike)


if __name__ == "__main__":
    main()
