"""Run one case: what it raised, how long it took, how much memory it took at its peak."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.errors import EyeswapError

HANG_S = 5
STUCK_S = 60  # without using the processor; a busy machine is slow too, and no fault of the reader's
BYTES_A_BYTE, SPARE_BYTES = 50, 500_000_000
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: ``read``, ``refused``, ``exception``, ``hang`` or ``memory``.
        about: the exception in words; empty where nothing is wrong.
        seconds: of processor time that it took.
        peak_bytes: memory that it took beyond what the process had; 0 where the system does not tell.
    """

    kind: str
    about: str
    seconds: float
    peak_bytes: int


class _Hang(BaseException):
    pass


def watch(read: Callable[[], Any], num_bytes: int) -> Outcome:
    """Read a case within its bounds.

    Args:
        read: reads it.
        num_bytes: size of its file or text.
    """
    before = _resident("VmRSS", reset=True)
    signal.signal(signal.SIGPROF, _give_up)
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    signal.setitimer(signal.ITIMER_REAL, STUCK_S)
    started = time.process_time()
    kind, about = "read", ""
    try:
        read()
    except EyeswapError as error:
        kind = "refused"
        if "\n" in str(error):
            kind, about = "exception", f"a message of several lines: {error!r}"
    except _Hang:
        kind, about = "hang", f"over {HANG_S} s of processor time, or {STUCK_S} s in all"
    except BaseException as error:
        kind, about = "exception", f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    peak = max(0, _resident("VmHWM") - before)
    if peak > BYTES_A_BYTE * num_bytes + SPARE_BYTES:
        kind, about = "memory", f"{peak:,} bytes for a file of {num_bytes:,}"
    return Outcome(kind, about, time.process_time() - started, peak)


def _give_up(*_: Any) -> None:
    raise _Hang


def _resident(field: str, reset: bool = False) -> int:
    """Return a figure of this process's memory in bytes; ``reset`` begins a new peak. 0 where /proc has none."""
    try:
        if reset:
            _CLEAR.write_text("5")
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
