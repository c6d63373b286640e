"""Run every check and table that needs a GPU, within eight minutes: what ``make gpu`` does.

    python benchmarks/gpu_run.py                      # into gpu-results/
    python benchmarks/gpu_run.py --minutes 15 --only training
    python benchmarks/gpu_run.py --rehearse           # every line at tiny sizes on a CPU, see pretend_gpu.py

Nothing is downloaded; torch with a GPU and the packages of eyeswap must be there. Every step is a process with a limit
of its own. After each one ``gpu.json`` and ``gpu.md`` are written anew, so that an interrupted run leaves all that was
measured; the whole output of a step is in ``<step>.log``. Exits with 1 if a step failed, and with 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eyeswap.files import write_json, write_text

HERE = Path(__file__).parent
PRETEND = HERE / "pretend_gpu.py"
LEAST_S = 5  # a step is not begun with less
REHEARSAL = 5  # times the limits: Triton's interpreter is slow
SHOWN_LINES = 120  # of a step's output in the summary
SHAPE = ("--shape", "4096x32")  # a 7B


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: of its files.
        script: in this folder, or ``-m module``.
        arguments: on a GPU.
        small: in a rehearsal.
        limit_s: seconds after which it is ended.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    small: tuple[str, ...]
    limit_s: float


STEPS = (
    Step(
        "checks", "-m pytest", ("-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"),
        ("-m", "gpu", "-q", "tests/ops"), 150,
    ),
    Step("core", "gpu.py", ("--only", "core"), ("--only", "core", "--batch", "1", "--rounds", "1"), 60),
    Step(
        "networks", "gpu.py", ("--only", "networks", "--no-compile", "--rounds", "10"),
        ("--only", "networks", "--batch", "1", "--rounds", "1", "--no-compile"), 80,
    ),
    Step(
        "latency", "gpu.py", ("--only", "latency", "--no-compile", "--rounds", "10"),
        ("--only", "latency", "--rounds", "1", "--no-compile"), 40,
    ),
    Step(
        "training", "training.py",
        (*SHAPE, "--batch", "64", "--tokens-per-pass", "6144", "--recompute", "elementwise", "--rounds", "2"),
        ("--shape", "32x1", "--batch", "4", "--micro-batch", "2", "--tokens-per-pass", "1024", "--rounds", "1"), 90,
    ),
    Step(
        "evaluation", "evaluation.py",
        (*SHAPE, "--backbone", "vmamba-small-s2l15", "--questions", "64", "--batch", "64", "--rounds", "2"),
        ("--shape", "32x1", "--questions", "8", "--rounds", "1"), 60,
    ),
)  # fmt: skip


@dataclass
class Outcome:
    """How a step ended.

    Attributes:
        name: of the step.
        ended: ``done``, ``failed (exit code N)``, ``out of time``, or ``not begun``.
        seconds: it took.
        results: what it wrote; None if it wrote nothing.
        output: the last lines it printed.
    """

    name: str
    ended: str = "not begun"
    seconds: float = 0.0
    results: Any = None
    output: str = ""


def run_step(step: Step, folder: Path, limit_s: float, *, rehearse: bool) -> Outcome:
    """Run one step; end it with all of its children at its limit."""
    results, log = folder / f"{step.name}.json", folder / f"{step.name}.log"
    results.unlink(missing_ok=True)
    script = step.script.split() if step.script.startswith("-m") else [str(HERE / step.script)]
    arguments = [*(step.small if rehearse else step.arguments)]
    if not step.script.startswith("-m"):
        arguments += ["--json", str(results)]
        script = [str(PRETEND), *script] if rehearse else script
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-u", *script, *arguments], stdout=stream, stderr=subprocess.STDOUT, cwd=HERE.parent,
            start_new_session=True, env=os.environ | {"COLUMNS": "140"},
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
            ended = "done" if code == 0 else f"failed (exit code {code})"
        except subprocess.TimeoutExpired:
            ended = "out of time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    found = json.loads(results.read_text()) if results.is_file() else None
    return Outcome(step.name, ended, time.monotonic() - started, found, "\n".join(lines))


def write_summary(folder: Path, about: str, outcomes: Sequence[Outcome]) -> None:
    """Write what is known so far as JSON and Markdown."""
    write_json(folder / "gpu.json", {"about": about, "steps": [asdict(outcome) for outcome in outcomes]})
    rows = [f"| {outcome.name} | {outcome.ended} | {outcome.seconds:.0f} |" for outcome in outcomes]
    parts = ["# GPU checks and tables", about, "\n".join(["| step | outcome | s |", "|---|---|--:|", *rows])]
    parts += [f"## {one.name}\n\n```text\n{one.output}\n```" for one in outcomes if one.output]
    write_text(folder / "gpu.md", "\n\n".join(parts) + "\n")


def main() -> int:
    """Run the steps that fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for all results")
    parser.add_argument("--minutes", type=float, default=8, help="for all steps together")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS], help="repeatable")
    parser.add_argument("--rehearse", action="store_true", help="at tiny sizes on a CPU that pretends to be a GPU")
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        print("benchmarks/gpu_run.py needs a CUDA GPU, and torch sees none here; try --rehearse", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    device = "a CPU (rehearsal)" if options.rehearse else torch.cuda.get_device_name(0)
    about = f"{device}, torch {torch.__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
    slower = REHEARSAL if options.rehearse else 1
    end = time.monotonic() + 60 * options.minutes * slower
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    outcomes = [Outcome(step.name) for step in steps]
    for number, step in enumerate(steps):
        left_s = end - time.monotonic()
        limit_s = min(slower * step.limit_s, left_s)
        if limit_s >= LEAST_S:
            print(f"{step.name}: at most {limit_s:.0f} s", flush=True)
            outcomes[number] = run_step(step, options.out, limit_s, rehearse=options.rehearse)
            print(f"{step.name}: {outcomes[number].ended}, {outcomes[number].seconds:.0f} s", flush=True)
        write_summary(options.out, about, outcomes)
    print(f"written: {options.out / 'gpu.md'}")
    return int(any(outcome.ended != "done" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
