"""Run a benchmark on a CPU that pretends to be a GPU, to rehearse its lines: python pretend_gpu.py gpu.py [...].

Triton kernels run in Triton's interpreter. Events read the clock; streams and graphs do nothing, so a replayed graph
returns what was captured. Times mean nothing here, except that every line was run.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch


class Event:
    """A CUDA event that reads the clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time_s = 0.0

    def record(self) -> None:
        """Remember the time."""
        self.time_s = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Return the milliseconds until another event."""
        return 1e3 * (end.time_s - self.time_s)


class Stream:
    """A CUDA stream on which everything has already happened."""

    def wait_stream(self, other: Stream) -> None:
        """Wait for nothing."""


class Graph:
    """A CUDA graph whose outputs stay as captured."""

    def replay(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def nothing(*_: Any) -> Iterator[None]:
    """Enter a stream or capture a graph: run the block as it is."""
    yield


def pretend() -> None:
    """Replace the parts of ``torch.cuda`` that the benchmarks use."""
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True, "Event": Event, "Stream": Stream, "CUDAGraph": Graph, "synchronize": lambda: None,
        "stream": nothing, "graph": nothing, "current_stream": Stream,
        "get_device_properties": lambda _: SimpleNamespace(name="a CPU that pretends to be a GPU"),
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)


def main() -> None:
    """Run the script that is named, at tiny sizes where it has none to choose."""
    script = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(script.parent))
    if script.name != "gpu.py":  # the others also run on a CPU
        runpy.run_path(str(script), run_name="__main__")
        return
    pretend()
    import gpu

    gpu.DEVICE = "cpu"
    gpu.STAGES = ((4, 16),)
    gpu.NETWORKS = {name: gpu.NETWORKS[name] for name in ("VMamba-T", "ViT-S/16")}
    gpu.CHECKED = (1, 2, 3, 16)
    gpu.COPY_BYTES = 2**20
    gpu.main()


if __name__ == "__main__":
    main()
