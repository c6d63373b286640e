"""The processes that share an evaluation, started by torchrun; without it there is one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")

_PATIENCE = timedelta(days=7)  # the last batch of another process may be long in coming


@dataclass(frozen=True)
class Workers:
    """This process among those of the evaluation.

    Attributes:
        rank: number of this process.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process does what only one may do."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this process: every ``count``-th."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def joined() -> Iterator[Workers]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    They exchange no tensors, so the gloo backend serves GPUs too.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def best_device() -> torch.device:
    """Return the GPU of this process, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
