"""Process groups started by torchrun, pools of worker processes, usable CPUs, and SIGTERM."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from eyeswap.errors import SpecError
from eyeswap.files import remove_unfinished

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


def find_device(name: str = "") -> torch.device:
    """Return the device of a name such as ``cpu``, ``cuda`` or ``cuda:1``; the best one for an empty name.

    Raises:
        SpecError: if torch knows no such device, or this machine has none.
    """
    import torch

    if not name:
        return best_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or ["not available"])[0]
        raise SpecError(f"--device {name}: torch cannot use it here ({reason}); cpu always works") from None
    return device


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

    def draw(self, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
        """Yield items with their positions, in order, each in one process only: a slow process takes fewer.

        All processes must call this with items of the same number, and use it up.
        """
        if self.size == 1:
            yield from enumerate(items)
            return
        from torch.distributed.distributed_c10d import _get_default_store

        store, key = _get_default_store(), self.gather(f"draw-{uuid.uuid4()}")[0]
        while (position := store.add(key, 1) - 1) < len(items):
            yield position, items[position]

    def gather(self, value: Item) -> list[Item]:
        """Return the values of all processes, by rank; they must be picklable."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

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


def this_process(device: torch.device | None = None) -> Ranks:
    """Return this process in the current process group."""
    import torch.distributed as dist

    device = device or best_device()
    if not dist.is_initialized():
        return Ranks(device=device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def _meeting_point() -> tuple[Any, int, int]:
    """Return the store of torchrun, this process's rank, and the number of processes.

    torchrun keeps one store over its restarts. Without a name of their own the processes of a new try would find the
    addresses of those that have ended, and wait for them.
    """
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    return PrefixStore(f"try-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-of-{size}", store), rank, size


@contextlib.contextmanager
def join(device: str = "") -> Iterator[Ranks]:
    """Join the process group of torchrun, or work alone, for the duration of the block.

    A single process on a GPU forms a group of one, so that it is sharded like several: float32 master weights, bf16
    arithmetic.

    Args:
        device: name of the device to compute on; by default a GPU if there is one.

    Raises:
        SpecError: if there is no such device.
    """
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    if "OMP_NUM_THREADS" not in os.environ and usable_cpus() < torch.get_num_threads():
        torch.set_num_threads(usable_cpus())  # torch does not look at the quota of a container
    chosen = find_device(device)
    has_gpu, is_one_of_many = chosen.type == "cuda", "RANK" in os.environ
    if dist.is_initialized() or not (has_gpu or is_one_of_many):
        yield this_process(chosen)
        return
    store, rank, size = _meeting_point() if is_one_of_many else (HashStore(), 0, 1)
    if has_gpu:
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=rank, world_size=size)
    try:
        yield this_process(chosen)
    finally:
        dist.destroy_process_group()


def usable_cpus() -> int:
    """Return how many CPUs this process may use: by its affinity and the quotas of its control groups, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (math.ceil(quota) for quota in _cpu_quotas(Path("/proc/self/cgroup")))
    return max(1, min([count, *quotas]))


def _cpu_quotas(groups: Path, root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the CPUs that each control group above this process grants, of versions 1 and 2; none where it is free."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in lines:
        is_old = "cpu" in controllers.split(",")
        if not is_old and controllers:
            continue
        top = root / controllers if is_old and (root / controllers).is_dir() else root / "cpu" if is_old else root
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):  # a container may see its own group as the root
            if place == top.parent:
                break
            with contextlib.suppress(OSError, ValueError):
                quota, period = _quota_and_period(place, is_old)
                if quota > 0:
                    yield quota / period


def _quota_and_period(group: Path, is_old: bool) -> tuple[int, int]:
    """Return microseconds of CPU time a period, and the period. ValueError for "max", OSError without the files."""
    if is_old:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    else:
        quota, period = map(int, (group / "cpu.max").read_text().split())
    return quota, period


def worker_pool(count: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of spawned processes, by default one per usable CPU; the functions they run must be importable.

    Unlike ordinary spawned processes they do not import the main module: a script without a main guard would run again
    from the start in each of them. They end when this process does, however it ends.
    """
    cpus = usable_cpus()
    return _Pool(min(count or cpus, cpus), mp_context=_WorkerContext(), initializer=_end_with_parent)


class _Pool(ProcessPoolExecutor):
    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Wait for the workers, or, if an error or a signal ends the block, end them: nobody wants what they do."""
        workers = list((self._processes or {}).values())
        manager: Any = self._executor_manager_thread  # a thread; typeshed says otherwise
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)
        if kind is not None:
            for worker in workers:
                worker.terminate()
            if manager is not None:
                manager.join(timeout=5)  # at the interpreter's end it would find its pipe closed, and say so


def _end_with_parent() -> None:
    """Let this worker end as soon as its parent ends it or is gone, and leave no half-written file.

    A worker that waits for work would not notice that its parent is gone.
    """
    parent = multiprocessing.parent_process()

    def end(*_: object) -> None:
        remove_unfinished()
        os._exit(1)

    def watch() -> None:
        if parent is not None:
            parent.join()
            end()

    signal.signal(signal.SIGTERM, end)

    threading.Thread(target=watch, daemon=True, name="end with the parent").start()


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


class Terminated(KeyboardInterrupt):
    """The system asked this process to end by SIGTERM, as Slurm and spot machines do before they kill it."""


class Termination:
    """Whether this process was asked to end, and whether it does so at once or at its next safe point.

    `listen` makes SIGTERM raise `Terminated` in the main thread. Inside of `at_safe_points` the signal is only noted:
    the work there looks at ``requested``, saves what it has, and calls `end`. Work that does not get there within
    ``GRACE_S`` is ended where it is.
    """

    GRACE_S = 20.0

    def __init__(self) -> None:
        self.requested = False
        self._defers = False

    def listen(self) -> None:
        """Take over SIGTERM; does nothing outside of the main thread, where no handler can be set."""
        if threading.current_thread() is threading.main_thread():
            self.requested = False
            signal.signal(signal.SIGTERM, self._note)

    @contextlib.contextmanager
    def at_safe_points(self) -> Iterator[None]:
        """Let the block end itself when a signal comes."""
        self._defers = True
        try:
            yield
        finally:
            self._defers = False
            if self.requested:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def end(self) -> None:
        """End this process as the signal asked.

        Raises:
            Terminated: always.
        """
        raise Terminated

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        is_second, self.requested = self.requested, True
        if not self._defers or is_second:
            raise Terminated
        signal.signal(signal.SIGALRM, self._note)
        signal.setitimer(signal.ITIMER_REAL, self.GRACE_S)


termination = Termination()


def leave_sigterm_to_parent(_worker: int) -> None:
    """Ignore SIGTERM in a loader's worker, so that it serves its parent up to the parent's own end.

    Slurm and ``timeout`` send the signal to every process of a job. A worker ends when its parent stops it or is gone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
