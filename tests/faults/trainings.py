"""Kill training with SIGKILL at random moments, restart it, and compare the ending with that of an uninterrupted run.

The miniature LLM learns from visual tokens, with a checkpoint after every step; in one training conversations are
packed, in the other they are padded and attention drops out, so that random numbers matter. A third of the kills comes
at a random time, a third at a random file operation of the checkpoints (opened, renamed, removed), a third while a file
of a checkpoint is being written. Losses and weights must be equal to the last bit.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.training.tiny_run import fresh, losses, recipe, tiny_data

from eyeswap.files import write_safetensors, write_text
from eyeswap.recipe import Execution
from eyeswap.shipped import llm_path
from eyeswap.training.loop import train

TRAININGS = ("packed", "padded, dropout")
KINDS = ("at a random time", "at a file operation", "within a file's write")
FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
NUM_EPOCHS = 5  # of 4 steps
PATIENCE_S = 60


@dataclass(frozen=True)
class Ending:
    """How a training went that was left alone."""

    losses: list[float]
    weights: bytes
    seconds: float
    file_operations: int


def run(training: str, folder: Path) -> None:
    """Train from the last checkpoint, or the start, to the end."""
    torch.set_num_threads(1)
    model = fresh(llm_path("digits-llm"))
    chosen = recipe(num_epochs=NUM_EPOCHS, micro_batch=2, lr=1e-3)
    execution = Execution(checkpoint_every_s=0, tokens_per_pass=64 if training == "packed" else None)
    if training != "packed":
        model.llm.config.attention_dropout = 0.1
        for layer in model.llm.model.layers:
            layer.self_attn.attention_dropout = 0.1
    train(model, tiny_data(model, chosen), chosen, folder, "d", execution=execution)
    write_safetensors(folder / "weights.safetensors", {key: one.clone() for key, one in model.state_dict().items()})


def count_file_operations(folder: Path, last: int | None) -> Callable[[], int]:
    """Kill this process at its ``last`` file operation below a folder; return what counts them."""
    counted = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal counted
        if event in FILE_OPERATIONS and str(arguments[0]).startswith(str(folder)):
            counted += 1
            if counted == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: counted


def start(training: str, folder: Path, last: int | None = None) -> int:
    """Train in a fork of this process, so that torch is imported once; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        counted = count_file_operations(folder / "checkpoints", last)
        run(training, folder)
        write_text(folder / "file-operations", str(counted()))
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def uninterrupted(training: str, folder: Path) -> Ending:
    if ended(start(training, folder)) != 0:
        raise SystemExit(f"{training}: does not even train without a kill")
    seconds = json.loads((folder / "train.jsonl").read_text().splitlines()[-1])["elapsed_s"]
    weights = (folder / "weights.safetensors").read_bytes()
    return Ending(losses(folder), weights, seconds, int((folder / "file-operations").read_text()))


def is_being_written(checkpoints: Path) -> bool:
    try:
        return any(file.stat().st_size > 0 for file in checkpoints.glob(".step-*/*.safetensors"))
    except FileNotFoundError:  # renamed while we looked
        return False


def wait_until(holds: Callable[[], bool], patience_s: float) -> None:
    end = time.perf_counter() + patience_s
    while not holds() and time.perf_counter() < end:
        time.sleep(0.0005)


def kill(training: str, kind: str, folder: Path, whole: Ending, draw: random.Random) -> str:
    """Start a training and kill it; return the moment in words, empty if it was too quick for that."""
    if kind == "at a file operation":
        number = draw.randint(1, whole.file_operations)
        code = ended(start(training, folder, number))
        return f"file operation {number:3d} of {whole.file_operations}" if code == -signal.SIGKILL else ""
    child = start(training, folder)
    wait_until((folder / "train.jsonl").exists, PATIENCE_S)
    moment_s = draw.uniform(0, 0.9) * whole.seconds
    time.sleep(moment_s)
    said = f"after {moment_s:.2f} s"
    if kind == "within a file's write":
        wait_until(lambda: is_being_written(folder / "checkpoints"), whole.seconds)
        said += ", in a write"
    os.kill(child, signal.SIGKILL)
    return said if ended(child) == -signal.SIGKILL else ""


def left_behind(checkpoints: Path) -> tuple[str, str]:
    """Return the last whole checkpoint, and what was begun and not finished."""
    whole = sorted(path.name for path in checkpoints.glob("step-*"))
    begun = sorted(checkpoints.glob(".step-*"))
    started = ", ".join(f"{path.name} ({sum(file.is_file() for file in path.iterdir())} files)" for path in begun)
    return whole[-1] if whole else "the start", started or "-"


def table(kills: int, seed: int) -> int:
    """Print the table; return 1 if an ending differs."""
    draw = random.Random(seed)
    identical = unfinished = 0
    with tempfile.TemporaryDirectory() as top:
        print(f"training {len(TRAININGS)} times without a kill ...", flush=True)
        wholes = {training: uninterrupted(training, Path(top) / training) for training in TRAININGS}
        header = ("kill", "training", "killed", "begun, not finished", "went on from", "ending")
        layout = "{:>4}  {:15}  {:25}  {:28}  {:13}  {}"
        print(layout.format(*header), flush=True)
        for number, kind, training in zip(
            range(1, kills + 1), itertools.cycle(KINDS), itertools.cycle(TRAININGS), strict=False
        ):
            whole, moment, attempt = wholes[training], "", 0
            while not moment:
                attempt += 1
                folder = Path(top) / f"{number}-{attempt}"
                moment = kill(training, kind, folder, whole, draw)
            last, begun = left_behind(folder / "checkpoints")
            is_whole = ended(start(training, folder)) == 0
            same_losses = is_whole and losses(folder) == whole.losses
            same_weights = is_whole and (folder / "weights.safetensors").read_bytes() == whole.weights
            ending = "identical" if same_losses and same_weights else "DIFFERS"
            identical += ending == "identical"
            unfinished += begun != "-"
            print(layout.format(number, training, moment, begun, last, ending), flush=True)
    print(f"{kills} kills ({unfinished} within a checkpoint's write), {identical} identical endings")
    return 0 if identical == kills else 1
