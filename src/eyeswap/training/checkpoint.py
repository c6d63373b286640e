"""Exact resume: all that decides the rest of a run, in folders that are whole or absent.

A checkpoint holds what is trained, the optimiser's moments, and the next step. Learning rate, data position and random
numbers are functions of the step and the seed, so there is nothing else to keep. Each process writes its own shards as
safetensors, through torch's distributed checkpointing, in a thread of its own while training goes on, from a copy in
the host's memory (12 bytes for each trained parameter that the process holds); another number of processes can read
them. When all are written, their sums go into ``checkpoint.json`` and the folder gets its name.

    checkpoints/step-00001200/{checkpoint.json, shard-00001-....safetensors, ...}

A damaged checkpoint is passed over, with a warning, in favour of the one before. Nothing is deleted but checkpoints
older than the last few, and what an interrupted write has left.
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
_FILE_BYTES = 2 << 30  # a file is put together in memory before it is written
_SHORTEST_PAUSE_S = 15.0
_PAUSE_FACTOR = 20  # a checkpoint that takes long is taken seldom


class Checkpoints:
    """The checkpoints of one run; a context, which ends with the last write.

    Args:
        folder: where they live.
        digest: identifies recipe, data and arm.
        ranks: the processes.
        keep: how many are kept.
        every_s: seconds between two; None takes 15, or 20 times what the last one took if that is longer.
        warn: is told about damaged checkpoints.
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
        self._copy: dict[str, Tensor] = {}  # on the CPU, used again and again
        self._last_took_s, self._last_at = 0.0, time.perf_counter()
        if ranks.is_first and folder.is_dir():
            for leftover in folder.glob(".step-*"):
                shutil.rmtree(leftover)

    def __enter__(self) -> Self:
        """Begin; torch's warning that one process saves alone is of no use here."""
        self._quiet.__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        return self

    def __exit__(self, *error: object) -> None:
        """Let the write in progress end, whatever comes of it."""
        self._thread.shutdown()
        self._quiet.__exit__(None, None, None)

    def found(self) -> list[Path]:
        """Return the checkpoints on disk, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".damaged")

    @property
    def last(self) -> str:
        """Say which checkpoint is the last."""
        paths = self.found()
        return f"the last checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore what is trained from the last checkpoint that is whole, if there is one.

        Returns:
            The step to go on from; 0 without checkpoints.

        Raises:
            CheckpointError: if the last one belongs to another recipe, or none is whole.
        """
        damaged: dict[Path, str] = {}
        for path in reversed(self.found()):
            problem = self._problem(path)
            if problem is None:
                self._set_aside(damaged, path)
                return self._read(path, model, optimizer)
            damaged[path] = f"{path}: damaged ({problem})"
        if damaged:
            told = next(iter(damaged.values()))
            raise CheckpointError(f"{told}, and there is no other; delete it to start this run again")
        return 0

    def is_due(self) -> bool:
        """Return whether it is time for the next checkpoint."""
        if self.every_s == 0:
            return True  # after every step, even if training has to wait
        pause = max(_SHORTEST_PAUSE_S, _PAUSE_FACTOR * self._last_took_s) if self.every_s is None else self.every_s
        is_busy = self._writing is not None and not self._writing.done()
        return not is_busy and time.perf_counter() - self._last_at >= pause

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, next_step: int) -> None:
        """Copy the state before ``next_step`` and start to write it; training may go on at once.

        Raises:
            RunError: if the write before this one failed.
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
        """Write the copied state under a temporary name, then name it; return how long it took, in seconds."""
        unfinished, path = self.folder / f".step-{next_step:08d}", self.folder / f"step-{next_step:08d}"
        try:
            with _failures_as_oserror():
                unfinished.mkdir(parents=True, exist_ok=True)
                files = _file_of(self._copy)
                writer = HuggingFaceStorageWriter(str(unfinished), fqn_to_index_mapping=files, save_distributed=True)
                save(self._copy, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
                if self.ranks.is_first:
                    self._name(unfinished, path, next_step)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            reason = error.strerror or str(error)
            raise RunError(
                f"{path}: could not be written ({reason}); {self.last}; make room and start the same command again"
            ) from None
        return time.perf_counter() - started

    def _name(self, unfinished: Path, path: Path, next_step: int) -> None:
        """Note the sums of all files, give the folder its name, and remove the oldest checkpoints."""
        files = {file.name: [file.stat().st_size, sha256_of(file)] for file in sorted(unfinished.iterdir())}
        record = {"next_step": next_step, "digest": self.digest, "processes": self.ranks.size, "files": files}
        write_json(unfinished / RECORD, record)
        unfinished.rename(path)
        for old in self.found()[: -self.keep]:
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.old")))

    def _set_aside(self, damaged: Mapping[Path, str], whole: Path) -> None:
        """Rename damaged checkpoints, so that they are neither read nor removed, and say so."""
        for path, told in damaged.items():
            if self.ranks.is_first:
                aside = path.rename(path.with_name(f"{path.name}-{time.time_ns()}.damaged"))
                self._warn(f"{told}; kept as {aside.name}, going on from {whole.name}")

    def _problem(self, path: Path) -> str | None:
        """Return what is wrong with a checkpoint on disk, or None; every process looks at its part of the files.

        Raises:
            CheckpointError: if it belongs to another recipe.
        """
        try:
            record = read_json(path / RECORD)
            digest, files = record["digest"], sorted(record["files"].items())
        except (DataError, KeyError, TypeError, AttributeError) as error:
            return f"{RECORD} is missing or no record: {error}"
        if digest != self.digest:
            raise CheckpointError(
                f"{path}: written by a run of another recipe or data ({str(digest)[:12]}, this one is "
                f"{self.digest[:12]}); choose another folder, or delete it"
            )
        own = files[self.ranks.rank :: self.ranks.size]
        bad = [name for name, (size, sha256) in own if not _is_whole(path / Path(name).name, size, sha256)]
        if sum(self.ranks.sum(len(bad))):
            return f"{', '.join(bad) or 'a file'} is not what was written"
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


def _file_of(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file that each tensor goes to, so that none is larger than need be."""
    number, filled, files = 1, 0, {}
    for name, tensor in state.items():
        if filled and filled + tensor.nbytes > _FILE_BYTES:
            number, filled = number + 1, 0
        files[name], filled = number, filled + tensor.nbytes
    return files


def _is_whole(file: Path, size: int, sha256: str) -> bool:
    return file.is_file() and file.stat().st_size == size and sha256_of(file) == sha256


@contextlib.contextmanager
def _failures_as_oserror() -> Iterator[None]:
    """Raise the cause of what torch's distributed checkpointing raises, which is no `Exception`."""
    try:
        yield
    except CheckpointException as error:
        causes = [failure[0] for failure in error.failures.values()]
        known = next((cause for cause in causes if isinstance(cause, OSError)), None)
        raise known or OSError(str(causes[0])) from None


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return every tensor that training changes, by name; writing into them changes model and optimiser."""
    state: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state[f"model.{name}"] = parameter.detach()
            moments = optimizer.state[parameter]
            state |= {f"optimizer.{name}.{key}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return state
