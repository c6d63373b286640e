"""Process groups started by torchrun, and pools of worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

_TIMEOUT = timedelta(days=1)  # processes may have to wait for one that encodes, evaluates or saves


def best_device() -> torch.device:
    """Return the GPU of this process, or the CPU if there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process in its process group.

    Attributes:
        rank: its rank; rank 0 writes files.
        size: number of processes in the group.
        device: the device it computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=best_device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this process: every ``size``-th one."""
        return items[self.rank :: self.size]

    def sum(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals)
        return [float(total) for total in totals]

    def wait(self) -> None:
        """Wait for all processes, on the CPU so that no GPU spins in the meantime."""
        self.sum(0.0)

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process execute the block alone, and then the others, which find its files."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def this_process() -> Ranks:
    """Return this process in the current process group."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """Join the process group of torchrun, or work alone, for the duration of the block.

    A single process on a GPU forms a group of one, so that it is sharded like several: float32 master weights, bf16
    arithmetic.
    """
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    has_gpu, is_one_of_many = torch.cuda.is_available(), "RANK" in os.environ
    if dist.is_initialized() or not (has_gpu or is_one_of_many):
        yield this_process()
        return
    alone: dict[str, Any] = {} if is_one_of_many else {"store": HashStore(), "rank": 0, "world_size": 1}
    if has_gpu:
        torch.cuda.set_device(best_device())
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=_TIMEOUT, **alone)
    try:
        yield this_process()
    finally:
        dist.destroy_process_group()


def worker_pool(count: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of spawned processes, by default one per core; the functions they run must be importable.

    Unlike ordinary spawned processes they do not import the main module: a script without a main guard would run again
    from the start in each of them.
    """
    return ProcessPoolExecutor(count or os.cpu_count(), mp_context=_WorkerContext())


class _Worker(SpawnProcess):
    def start(self) -> None:
        """Start with an empty module in place of the main module, which the new process would otherwise import."""
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _WorkerContext(SpawnContext):
    Process = _Worker
