"""A tiny study in a process of its own, forked so that torch is imported once, and what it left behind."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from tests.tiny_study import write_tiny_llm, write_tiny_study

from eyeswap.cli.main import app
from eyeswap.report.writers import page

PATIENCE_S = 300
STAGES = {  # stage -> what appears, somewhere in the study's folder, when it begins
    "data": "study.json",
    "tokens": "tokens",
    "training": "*/seed-7/train.jsonl",
    "evaluation": "*/seed-7/model",
    "report": "vmamba/seed-7/seal.json",
}


@dataclass(frozen=True)
class Site:
    """A study file, the LLM it names, and one folder for the runs of each attempt.

    Attributes:
        file: the study.
        llm: the folder of its LLM.
    """

    file: Path
    llm: Path

    @classmethod
    def build(cls, top: Path, num_train: int = 24) -> Site:
        """Write the study and its LLM."""
        llm = write_tiny_llm(top / "llm")
        for path in llm.iterdir():
            path.chmod(0o644)  # for the user without rights
        return cls(write_tiny_study(top / "study", llm, train=num_train, val=6, benchmarks=("pope", "refcoco")), llm)

    def start(self, runs: Path, *command: str, before: Callable[[], object] = lambda: None) -> Process:
        """Run the study, or another command, in a fork.

        Args:
            runs: folder of the runs; the output goes to a file beside it.
            command: of ``eyeswap``; by default ``study run FILE --runs RUNS``.
            before: called in the fork first.
        """
        arguments = command or ("study", "run", str(self.file), "--runs", str(runs))
        log = runs.with_suffix(".log")
        child = os.fork()
        if child == 0:
            _run_command(arguments, log, before)
        return Process(child, log)


@dataclass(frozen=True)
class Process:
    """A forked command, the leader of its own process group."""

    pid: int
    log: Path

    def wait(self, patience_s: float = PATIENCE_S) -> int | None:
        """Return the exit code, negative for a signal; None if it is still running after the patience."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None

    def is_running(self) -> bool:
        """Whether it has not ended; does not take its exit code."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def send(self, number: int) -> None:
        """Send a signal to the process alone, not to its workers."""
        os.kill(self.pid, number)

    def num_left(self, patience_s: float = 10) -> int:
        """Return how many processes of its group are alive after the patience."""
        end = time.monotonic() + patience_s
        while (left := len(list(_members(self.pid)))) and time.monotonic() < end:
            time.sleep(0.05)
        if left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return left

    @property
    def error(self) -> str:
        """The lines of its output that say what went wrong."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(line for line in lines if line.startswith(("error:", "failed:", "Traceback")))


def _run_command(arguments: tuple[str, ...], log: Path, before: Callable[[], object]) -> None:
    """Become a command of ``eyeswap``; never returns."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a script ignores
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    code: Any = 1
    try:
        torch.set_num_threads(1)
        page.svg = lambda *_: "<svg></svg>"  # figures would take half of a round
        before()
        app(list(arguments), standalone_mode=True)
        code = 0
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _members(group: int) -> Iterator[int]:
    """Yield the living processes of a process group."""
    return _processes(2, group)


def children(pid: int) -> list[int]:
    """Return the living processes that a process started."""
    return sorted(_processes(1, pid))


def _processes(field: int, value: int) -> Iterator[int]:
    """Yield the living processes with a value in a field of ``/proc/<pid>/stat``, counted behind the name."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[field]) == value and fields[0] != "Z":
                yield int(path.parent.name)


def torchrun(site: Site, runs: Path) -> Callable[[], None]:
    """Return what turns a fork into two processes under torchrun, which starts them again up to twice."""
    options = ("--standalone", "--nproc-per-node=2", "--max-restarts=2", "-m", "eyeswap.cli")
    command = (sys.executable, "-m", "torch.distributed.run", *options, "study", "run", site.file, "--runs", runs)

    def become() -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [str(part) for part in command])

    return become


def limit_file_size(num_bytes: int) -> Callable[[], None]:
    """Return what lets a process write no file beyond a size: the errors of a full disk, at any stage."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return limit


def without_shared_memory() -> None:
    """Take /dev/shm away from this process, which needs the right to mount.

    Raises:
        OSError: without that right.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    private, recursive, new_mounts, detach = 1 << 18, 1 << 14, 0x20000, 2  # of <sys/mount.h> and <sched.h>
    for done in (
        libc.unshare(new_mounts),
        libc.mount(b"none", b"/", None, private | recursive, None),
        libc.umount2(b"/dev/shm", detach),
    ):
        if done != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ending(runs: Path) -> dict[str, Any]:
    """Return what a study ends with: weights, losses, answers and scores of its runs, and the numbers of its report."""
    study, content = runs / "tiny", {}
    for run in sorted(study.glob("*/seed-7")):
        name = run.parent.name
        content[f"{name}: weights"] = b"".join(path.read_bytes() for path in sorted(run.glob("model/*.safetensors")))
        rows = map(json.loads, (run / "train.jsonl").read_text().splitlines())
        content[f"{name}: losses"] = [(row["step"], row["loss"]) for row in rows]
        columns = ["example_id", "answer", "score", "baseline_score"]
        files = sorted(run.glob("predictions/*.parquet"))
        content[f"{name}: answers"] = [pq.read_table(path).select(columns).to_pylist() for path in files]
        content[f"{name}: scores"] = json.loads((run / "scores.json").read_text())
    content["report"] = (study / "report" / "results.csv").read_text()
    return content


def differences(before: dict[str, Any], runs: Path) -> str:
    """Return which parts of an ending differ; empty if none does."""
    try:
        now = ending(runs)
    except OSError as error:
        return f"{error.filename} is missing"
    return ", ".join(key for key in before if now.get(key) != before[key])


def wait_for(process: Process, runs: Path, stage: str) -> float | None:
    """Wait until a stage begins; return how long that took, None if the process ended before."""
    started = time.monotonic()
    while not any((runs / "tiny").glob(STAGES[stage])):
        if not process.is_running() or time.monotonic() - started > PATIENCE_S:
            return None
        time.sleep(0.002)
    return time.monotonic() - started
