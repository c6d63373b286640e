"""Distribute the tasks of a kernel over plain threads; the kernels release Python's global lock.

The thread pools of numba and of a second OpenMP are avoided: the latter spins beside torch's and slows torch down
twentyfold on a busy machine, and numba's workqueue pool must not be entered by two threads at once. The C core uses
torch's own threads instead, where their OpenMP is GNU's, see `_scan.c`.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


@functools.cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Return this process's worker threads; a forked child has another process id and gets its own."""
    return ThreadPoolExecutor(workers, thread_name_prefix="eyeswap-scan")


def share_out(function: Callable[[int, int], object], tasks: int) -> None:
    """Call ``function(first, stop)`` on equal ranges of consecutive tasks, one per torch thread."""
    threads = max(1, min(torch.get_num_threads(), tasks))
    bounds = [tasks * i // threads for i in range(threads + 1)]
    pending = [
        _pool(os.getpid(), threads - 1).submit(function, first, stop) for first, stop in itertools.pairwise(bounds[1:])
    ]
    function(0, bounds[1])  # this thread works too
    for future in pending:
        future.result()
