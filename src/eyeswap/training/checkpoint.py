"""Checkpoints for exact resume, in folders that are complete or absent.

A checkpoint holds the trained weights, the optimizer's moments and the next step. Learning rate, data position and
random numbers are functions of the step and the seed, so nothing else is needed. Each process writes its own shards as
safetensors with torch's distributed checkpointing, in a background thread while training continues, from a copy in host
memory (12 bytes per trained parameter of the process). A different number of processes can read them. When all are
written, their digests go into ``checkpoint.json`` and the folder gets its final name.

    checkpoints/step-00001200/{checkpoint.json, shard-00001-....safetensors, ...}

A damaged checkpoint is skipped with a warning in favour of the one before. Only checkpoints older than the last few and
leftovers of interrupted writes are deleted.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from eyeswap.errors import CheckpointError, DataError, RunError
from eyeswap.files import read_json, sha256_of, write_json
from eyeswap.processes import Ranks

RECORD = "checkpoint.json"
_FILE_BYTES = 2 << 30  # each file is assembled in memory before it is written
_SHORTEST_PAUSE_S = 15.0
_PAUSE_FACTOR = 20  # checkpointing takes at most about a twentieth of the time


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last write on exit.

    Args:
        folder: folder of the checkpoints.
        digest: identifies recipe, data and arm.
        ranks: the processes.
        keep: number of checkpoints kept.
        every_s: seconds between checkpoints; None: 15, or 20 times the duration of the last one if that is longer.
        warn: called with a message about each damaged checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        ranks: Ranks,
        keep: int = 2,
        every_s: float | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.folder, self.digest, self.ranks, self.keep, self.every_s = folder, digest, ranks, keep, every_s
        self._warn = warn
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._thread, self._quiet = ThreadPoolExecutor(1), warnings.catch_warnings()
        self._writing: Future[float] | None = None
        self._copy: dict[str, Tensor] = {}  # CPU buffers, reused by every checkpoint
        self._last_took_s, self._last_at = 0.0, time.perf_counter()
        if ranks.is_first and folder.is_dir():
            for leftover in folder.glob(".step-*"):
                shutil.rmtree(leftover)

    def __enter__(self) -> Self:
        """Start; suppresses torch's warning that a single process saves without torch.distributed."""
        self._quiet.__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for the write in progress, and ignore its outcome."""
        self._thread.shutdown()
        self._quiet.__exit__(None, None, None)

    def paths(self) -> list[Path]:
        """Return the checkpoints on disk, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".damaged")

    @property
    def last(self) -> str:
        """A clause that names the last checkpoint, for messages."""
        paths = self.paths()
        return f"the last checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore model and optimizer from the last intact checkpoint, if there is one.

        Returns:
            The step at which to resume; 0 without checkpoints.

        Raises:
            CheckpointError: if the last one belongs to another recipe, or none is intact.
        """
        damaged: dict[Path, str] = {}
        for path in reversed(self.paths()):
            problem = self._problem(path)
            if problem is None:
                self._set_aside(damaged, path)
                return self._read(path, model, optimizer)
            damaged[path] = f"{path}: damaged ({problem})"
        if damaged:
            newest = next(iter(damaged.values()))
            raise CheckpointError(f"{newest}, and there is no intact one; delete it to train this run from the start")
        return 0

    def is_due(self) -> bool:
        """Return whether it is time for the next checkpoint."""
        if self.every_s == 0:
            return True  # after every step, even if training has to wait for the write
        pause = max(_SHORTEST_PAUSE_S, _PAUSE_FACTOR * self._last_took_s) if self.every_s is None else self.every_s
        is_busy = self._writing is not None and not self._writing.done()
        return not is_busy and time.perf_counter() - self._last_at >= pause

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, next_step: int) -> None:
        """Copy the state before ``next_step`` and start writing it; training may continue immediately.

        Raises:
            RunError: if the previous write failed.
        """
        self.wait()
        started = time.perf_counter()
        for name, tensor in _state(model, optimizer).items():
            if name in self._copy:
                self._copy[name].copy_(tensor)
            else:
                self._copy[name] = tensor.to("cpu", copy=True)
        self._last_at = started
        self._writing = self._thread.submit(self._write, next_step, started)

    def wait(self) -> None:
        """Wait until the write in progress is done, in all processes.

        Raises:
            RunError: if it failed in any of them.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        error = writing.exception()
        if sum(self.ranks.sum(float(error is not None))):
            raise error or RunError(f"{self.folder}: another process could not write its checkpoint; {self.last}")
        self._last_took_s = writing.result()

    def _write(self, next_step: int, started: float) -> float:
        """Write the copied state under a temporary name and rename it; return the duration in seconds."""
        unfinished, path = self.folder / f".step-{next_step:08d}", self.folder / f"step-{next_step:08d}"
        try:
            with _failures_as_oserror():
                unfinished.mkdir(parents=True, exist_ok=True)
                files = _file_numbers(self._copy)
                writer = HuggingFaceStorageWriter(str(unfinished), fqn_to_index_mapping=files, save_distributed=True)
                save(self._copy, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
                if self.ranks.is_first:
                    self._finalize(unfinished, path, next_step)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            reason = error.strerror or str(error)
            raise RunError(
                f"{path}: could not be written ({reason}); {self.last}; free disk space and run the same command again"
            ) from None
        return time.perf_counter() - started

    def _finalize(self, unfinished: Path, path: Path, next_step: int) -> None:
        """Record the digests of all files, give the folder its final name, and delete the oldest checkpoints."""
        files = {file.name: [file.stat().st_size, sha256_of(file)] for file in sorted(unfinished.iterdir())}
        record = {"next_step": next_step, "digest": self.digest, "processes": self.ranks.size, "files": files}
        write_json(unfinished / RECORD, record)
        unfinished.rename(path)
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.old")))

    def _set_aside(self, damaged: Mapping[Path, str], intact: Path) -> None:
        """Rename damaged checkpoints, so that they are neither read nor deleted, and warn about them."""
        for path, problem in damaged.items():
            if self.ranks.is_first:
                renamed = path.rename(path.with_name(f"{path.name}-{time.time_ns()}.damaged"))
                self._warn(f"{problem}; kept as {renamed.name}, resuming from {intact.name}")

    def _problem(self, path: Path) -> str | None:
        """Return what is wrong with a checkpoint on disk, or None; every process checks a part of the files.

        Raises:
            CheckpointError: if it belongs to another recipe.
        """
        try:
            record = read_json(path / RECORD)
            digest, files = record["digest"], sorted(record["files"].items())
        except (DataError, KeyError, TypeError, AttributeError) as error:
            return f"{RECORD} is missing or invalid: {error}"
        if digest != self.digest:
            raise CheckpointError(
                f"{path}: written by a run with another recipe or other data ({str(digest)[:12]}, this run is "
                f"{self.digest[:12]}); choose another folder, or delete it"
            )
        own_files = files[self.ranks.rank :: self.ranks.size]
        bad = [name for name, (size, sha256) in own_files if not _is_intact(path / Path(name).name, size, sha256)]
        if sum(self.ranks.sum(len(bad))):
            return f"{', '.join(bad) or 'a file'} has changed since it was written"
        return None

    def _read(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        reader = HuggingFaceStorageReader(str(path))
        with _failures_as_oserror():
            load(
                _state(model, optimizer),
                storage_reader=reader,
                process_group=self._group,
                no_dist=self._group is None,
            )
        return int(read_json(path / RECORD)["next_step"])


def _file_numbers(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file for each tensor, so that files stay below `_FILE_BYTES` where possible."""
    number, filled, files = 1, 0, {}
    for name, tensor in state.items():
        if filled and filled + tensor.nbytes > _FILE_BYTES:
            number, filled = number + 1, 0
        files[name], filled = number, filled + tensor.nbytes
    return files


def _is_intact(file: Path, size: int, sha256: str) -> bool:
    return file.is_file() and file.stat().st_size == size and sha256_of(file) == sha256


@contextlib.contextmanager
def _failures_as_oserror() -> Iterator[None]:
    """Raise the cause of a failure in torch's distributed checkpointing, whose own error is not an `Exception`."""
    try:
        yield
    except CheckpointException as error:
        causes = [failure[0] for failure in error.failures.values()]
        os_error = next((cause for cause in causes if isinstance(cause, OSError)), None)
        raise os_error or OSError(str(causes[0])) from None


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return every tensor that training changes, by name; writing into them changes model and optimizer."""
    state: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state[f"model.{name}"] = parameter.detach()
            moments = optimizer.state[parameter]
            state |= {f"optimizer.{name}.{key}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return state
