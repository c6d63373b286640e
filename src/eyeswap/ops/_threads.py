"""Share the tasks of a kernel out to plain threads; the kernels let go of Python's lock.

Pools of numba or OpenMP are avoided: a second OpenMP pool spins beside torch's and slows torch down twentyfold on
a busy machine, and numba's plain one must not be entered by two threads at once.
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
    """Return the worker threads of this process; a forked child has another id, hence threads of its own."""
    return ThreadPoolExecutor(workers, thread_name_prefix="eyeswap-scan")


def share_out(function: Callable[[int, int], object], tasks: int) -> None:
    """Call ``function(first, stop)`` on equal runs of neighbouring tasks, one for each of torch's threads."""
    threads = max(1, min(torch.get_num_threads(), tasks))
    bounds = [tasks * i // threads for i in range(threads + 1)]
    others = [
        _pool(os.getpid(), threads - 1).submit(function, first, stop) for first, stop in itertools.pairwise(bounds[1:])
    ]
    function(0, bounds[1])
    for other in others:
        other.result()
