"""Claims on folders: locks between workers on several machines, which expire when their holder dies.

A claim is a numbered file in ``<folder>/workers``; the highest number holds the folder. Files are created exclusively
and numbers only grow, so of several workers that want a folder exactly one gets it, on one machine or on several that
share a disk. The holder touches its file every few seconds. If the last claim has ended, its process is gone, or its
file has not been touched for too long, another worker may take the next number; a holder that was merely suspended sees
the higher number when it wakes up, and stops. The files are kept as a record of who did the run, when, and the outcome.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from eyeswap.errors import RunError
from eyeswap.files import write_json
from eyeswap.runs.folder import RunFolder

BEAT_S = 5.0  # seconds between touches of a holder's file
STALE_S = 90.0  # the holder of a file that was not touched for this long is considered dead

End = Literal["done", "failed", "interrupted"]


@dataclass(frozen=True)
class Holder:
    """The content of a claim's file.

    Attributes:
        number: position in the order of claims on the folder.
        host: name of the machine.
        pid: process id on that machine.
        machine: identifies the booted system and its pid namespace; None if unknown.
        born: start time of the process in the system's clock ticks; None if unknown.
        since: start of the claim, UTC.
        end: outcome; None while the claim lasts.
        ended: time of the outcome, UTC.
        message: reason of a failure.
        age_s: seconds since the file was last touched.
    """

    number: int
    host: str
    pid: int
    machine: str | None
    born: str | None
    since: str
    end: End | None = None
    ended: str = ""
    message: str = ""
    age_s: float = 0.0

    @property
    def worker(self) -> str:
        """The worker's name, ``host:pid``."""
        return f"{self.host}:{self.pid}"

    @property
    def is_at_work(self) -> bool:
        """Whether the claim is in force: not ended, its process not known to be gone, its file touched recently."""
        if self.end is not None or self.age_s > STALE_S:
            return False
        same_system = self.machine is not None and self.machine == _machine()
        return not same_system or (_born(self.pid) is not None and _born(self.pid) == self.born)


def holder_of(folder: Path) -> Holder | None:
    """Return the last claim on a folder, ended or not; None if there has been none."""
    numbers = _numbers(folder)
    return _read(folder, numbers[-1]) if numbers else None


class Claim:
    """A claim of this process on a folder, kept alive by a background thread until it is released.

    If another worker takes the folder over because this process was suspended for too long, `is_lost` is set and the
    main thread is interrupted.
    """

    def __init__(self, folder: Path, holder: Holder) -> None:
        self.folder, self.holder = folder, holder
        self.is_lost = False
        self._path = _path(folder, holder.number)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"claim on {folder}")
        self._thread.start()

    def release(self, end: End, message: str = "") -> None:
        """End the claim and record the outcome; the file is kept."""
        self._released.set()
        self._thread.join()
        if not self.is_lost:
            write_json(self._path, _content(replace(self.holder, end=end, ended=utc_now(), message=message)))

    def _beat(self) -> None:
        while not self._released.wait(BEAT_S):
            with contextlib.suppress(OSError, IndexError):  # a shared disk may be unavailable for a moment
                os.utime(self._path)
                if _numbers(self.folder)[-1] > self.holder.number:
                    self.is_lost = True
                    # A job in the background of a script ignores interrupts.
                    is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                    number = signal.SIGTERM if is_deaf else signal.SIGINT
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
                    return


def claim(folder: Path) -> Claim | None:
    """Claim a folder; None if another worker holds it."""
    last = holder_of(folder)
    if last is not None and last.is_at_work:
        return None
    RunFolder(folder).workers.mkdir(parents=True, exist_ok=True)
    number = 1 if last is None else last.number + 1
    holder = Holder(number, socket.gethostname(), os.getpid(), _machine(), _born(os.getpid()), utc_now())
    try:
        with _path(folder, number).open("x", encoding="utf-8") as stream:
            json.dump(_content(holder), stream)
    except FileExistsError:
        return None  # another worker was faster
    return Claim(folder, holder)


@contextlib.contextmanager
def held(own_claim: Claim) -> Iterator[None]:
    """Hold a claim for the duration of the block, and record the outcome.

    Raises:
        RunError: if another worker took the folder over in the meantime.
    """
    try:
        yield
    except BaseException as error:
        if own_claim.is_lost:
            message = f"{own_claim.folder}: another worker took this run over while this process was suspended"
            raise RunError(message) from None
        is_failure = isinstance(error, Exception)
        own_claim.release("failed" if is_failure else "interrupted", str(error) if is_failure else "")
        raise
    own_claim.release("done")


def utc_now() -> str:
    """Return the current UTC time as ISO 8601 text, which sorts by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _content(holder: Holder) -> dict[str, object]:
    return {key: value for key, value in asdict(holder).items() if key not in ("number", "age_s")}


def _path(folder: Path, number: int) -> Path:
    return RunFolder(folder).workers / f"{number:04d}.json"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in RunFolder(folder).workers.glob("*.json") if path.stem.isdigit())


def _read(folder: Path, number: int) -> Holder:
    """Read a claim; one that is incomplete has an unknown holder, and is respected until it is stale."""
    path = _path(folder, number)
    try:
        age = max(0.0, _now(path.parent) - path.stat().st_mtime)
        holder = Holder(number=number, age_s=age, **json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        age = max(0.0, time.time() - path.stat().st_mtime) if path.exists() else 0.0
        holder = Holder(number, "unknown", 0, None, None, "", age_s=age)
    return holder


def _now(folder: Path) -> float:
    """Return the time by the clock of the file system of ``folder``, as the clocks of machines may differ."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # no permission to write
        return time.time()


def _machine() -> str | None:
    """Return an identifier of the booted system and its pid namespace; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """Return the start time of a process of this system in clock ticks; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
