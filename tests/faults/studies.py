"""What can happen to a whole study, kind by kind: the fault, what must come of it, and the ending after a new start."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.study_process import (
    STAGES,
    Process,
    Site,
    children,
    differences,
    ending,
    limit_file_size,
    torchrun,
    wait_for,
    without_shared_memory,
)

GRACE_S = 30  # that Slurm and spot machines leave between SIGTERM and SIGKILL
NOBODY = 65534


@dataclass(frozen=True)
class Round:
    """One fault and what came of it.

    Attributes:
        moment: when or where it struck.
        seen: what the command did: its exit code, its error.
        problem: what is wrong with that; empty if nothing is.
    """

    moment: str
    seen: str
    problem: str


@dataclass(frozen=True)
class Workplace:
    """What all rounds share.

    Attributes:
        site: the study.
        whole: the folder of runs of an uninterrupted study.
        expected: how it ended.
        seconds: how long each stage of it took.
    """

    site: Site
    whole: Path
    expected: dict[str, Any]
    seconds: dict[str, float]

    @classmethod
    def build(cls, top: Path) -> Workplace:
        """Run the study once without a fault, and time its stages."""
        site, whole = Site.build(top), top / "whole"
        process = site.start(whole)
        began = {}
        started = time.monotonic()
        for stage in STAGES:
            wait_for(process, whole, stage)
            began[stage] = time.monotonic() - started
        code = process.wait()
        if code != 0:
            raise SystemExit(f"the study does not even run without a fault: {process.log.read_text()}")
        times = [*began.values(), time.monotonic() - started]
        seconds = {
            stage: after - before for stage, (before, after) in zip(STAGES, itertools.pairwise(times), strict=True)
        }
        return cls(site, whole, ending(whole), seconds)

    def go_on(self, runs: Path) -> str:
        """Start the study again; return what is wrong with its ending, empty if it is the expected one."""
        process = self.site.start(runs)
        code = process.wait()
        if code != 0:
            return f"starting again ended with {code}: {process.error}"
        differing = differences(self.expected, runs)
        return f"another ending: {differing}" if differing else ""

    def copy(self, runs: Path) -> Path:
        """Copy the finished runs."""
        shutil.copytree(self.whole, runs)
        return runs

    def stop_in(self, runs: Path, stage: str, number: int, draw: random.Random) -> tuple[Process, str]:
        """Start the study, and send a signal at a random moment of a stage; return the process and the moment."""
        process = self.site.start(runs)
        wait_for(process, runs, stage)
        delay_s = draw.uniform(0, 1) * self.seconds[stage]
        time.sleep(delay_s)
        if process.is_running():
            process.send(number)
        return process, f"{stage}, after {delay_s:.2f} s"


def killed(number: int, code: int) -> Callable[[Workplace, Path, random.Random, int], Round]:
    """Return a fault: a signal at a random moment of each stage in turn."""

    def strike(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
        stage = list(STAGES)[turn % len(STAGES)]
        process, moment = place.stop_in(runs, stage, number, draw)
        sent = time.monotonic()
        seen = process.wait(GRACE_S)
        took = time.monotonic() - sent
        left = process.num_left()
        problem = "" if seen in (code, 0) else f"exit code {seen}, expected {code}: {process.error}"
        problem = problem or (f"{left} processes left" if left else "") or place.go_on(runs)
        return Round(moment, f"exit {seen} in {took:.1f} s", problem)

    return strike


def worker_lost(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Kill one of two processes of torchrun at a random moment of a stage: torchrun starts both again."""
    whole = runs.with_name("whole-of-two-processes")
    if not whole.exists():
        code = place.site.start(whole, before=torchrun(place.site, whole)).wait()
        if code != 0:
            return Round("", "", f"without a fault: exit {code}: {whole.with_suffix('.log').read_text()[-600:]}")
    process = place.site.start(runs, before=torchrun(place.site, runs))
    stage = list(STAGES)[turn % len(STAGES)]
    wait_for(process, runs, stage)
    delay_s = draw.uniform(0, 1) * place.seconds[stage]
    time.sleep(delay_s)
    workers = children(process.pid)
    lost = draw.choice(workers) if workers else None
    if lost is not None:
        os.kill(lost, signal.SIGKILL)
    code = process.wait()
    problem = "" if code == 0 else f"exit {code}: {process.log.read_text(errors='replace')[-600:]}"
    seen = "after the end" if lost is None else f"exit {code}, a worker of {len(workers)} killed"
    return Round(f"{stage}, after {delay_s:.2f} s", seen, problem or differences(ending(whole), runs))


def two_at_once(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Start the same study twice, the second at a random moment of the first."""
    first = place.site.start(runs)
    delay_s = draw.uniform(0, 1) * sum(place.seconds.values())
    time.sleep(delay_s)
    second = place.site.start(runs)
    codes = [first.wait(), second.wait()]
    holders = [len(list(run.glob("workers/*.json"))) for run in (runs / "tiny").glob("*/seed-7")]
    problem = "" if codes == [0, 0] else f"exit codes {codes}: {first.error} {second.error}"
    problem = problem or ("" if holders == [1, 1] else f"claims {holders}, expected one a run")
    return Round(f"second after {delay_s:.1f} s", f"exit {codes}", problem or differences(place.expected, runs))


def full_disk(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Let no file grow beyond a random size."""
    sizes = sorted(
        path.stat().st_size for path in place.whole.rglob("*") if path.is_file() and path.stat().st_size > 200
    )
    most = draw.choice(sizes) - 1
    process = place.site.start(runs, before=limit_file_size(most))
    code = process.wait()
    is_line = bool(process.error) and "Traceback" not in process.error and "this is a bug" not in process.error
    problem = "" if code in (1, 2) and is_line else f"exit {code}: {process.log.read_text()[-600:]}"
    return Round(f"files of at most {most:,} bytes", f"exit {code}: {process.error[:90]}", problem or place.go_on(runs))


def read_only(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Start where nothing may be written, as a user without the right."""
    runs.mkdir()
    runs.chmod(0o555)
    process = place.site.start(runs, before=lambda: os.setuid(NOBODY) if os.getuid() == 0 else None)
    code = process.wait()
    runs.chmod(0o755)
    is_line = "Permission denied" in process.error and "Traceback" not in process.error
    problem = "" if code == 2 and is_line else f"exit {code}: {process.log.read_text()[-600:]}"
    return Round("from the start", f"exit {code}: {process.error[-60:]}", problem or place.go_on(runs))


def clock_jump(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Kill, and let all files be of another day: the clock jumped while nobody looked."""
    process, moment = place.stop_in(runs, draw.choice(list(STAGES)), signal.SIGKILL, draw)
    process.wait()
    days = draw.choice((-400, -1, 1, 400))
    for path in runs.rglob("*"):
        os.utime(path, (time.time() + days * 86_400,) * 2)
    return Round(moment, f"files {days:+d} days", place.go_on(runs))


def moved(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Kill, and go on in another place."""
    process, moment = place.stop_in(runs, draw.choice(list(STAGES)), signal.SIGKILL, draw)
    process.wait()
    there = runs.with_name(f"{runs.name}-moved")
    runs.rename(there)
    return Round(moment, "moved", place.go_on(there))


def damaged_checkpoint(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Kill a training, and cut, change or delete a file of its last checkpoint."""
    process, moment = place.stop_in(runs, "training", signal.SIGKILL, draw)
    process.wait()
    files = sorted(path for path in runs.glob("tiny/*/seed-7/checkpoints/step-*/*") if path.is_file())
    if not files:
        return Round(moment, "no checkpoint yet", place.go_on(runs))
    path = draw.choice(files)
    what = _damage(path, draw)
    again = place.site.start(runs)
    code = again.wait()
    if code == 0:
        return Round(moment, f"{what}: passed over", differences(place.expected, runs))
    is_named = "damaged" in again.error and "Traceback" not in again.error
    problem = "" if is_named else f"exit {code}: {again.error}"
    for checkpoints in runs.glob("tiny/*/seed-7/checkpoints"):  # as the error says
        shutil.rmtree(checkpoints)
    return Round(moment, f"{what}: named", problem or place.go_on(runs))


def damaged_results(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Cut, change or delete a file of a finished run: status, audit and export must all see it."""
    place.copy(runs)
    names = (
        "predictions/pope.parquet",
        "predictions/refcoco.parquet",
        "scores.json",
        "model/model.safetensors",
        "spec.json",
    )
    path = runs / "tiny" / draw.choice(("vit", "vmamba")) / "seed-7" / names[turn % len(names)]
    what = _damage(path, draw)
    study = str(runs / "tiny")
    codes = {
        "audit": place.site.start(runs, "audit", study).wait(),
        "export": place.site.start(runs, "export", study, "--out", f"{runs}.zip").wait(),
    }
    status = place.site.start(runs, "study", "status", str(place.site.file), "--runs", str(runs), "--json")
    status.wait()
    is_model = "model/" in what or path.parent.name == "model"
    unseen = [command for command, code in codes.items() if code == 0]
    if is_model and not path.exists():
        unseen = []  # weights may stay at home
    if not is_model and status.log.read_text().count('"done"') == 2:
        unseen.append("status")
    return Round(f"{path.relative_to(runs / 'tiny')}", f"{what}; {codes}", f"not seen by {unseen}" if unseen else "")


def changed_between_arms(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Kill after the first arm, and change the LLM or an image: the second arm must be refused, and say why."""
    llm = runs.with_name(f"{runs.name}-llm")
    shutil.copytree(place.site.llm, llm)
    folder = runs.with_name(f"{runs.name}-study")
    shutil.copytree(place.site.file.parent, folder)
    file = folder / place.site.file.name
    file.write_text(file.read_text().replace(str(place.site.llm), str(llm)))
    site = Site(file, llm)
    process = site.start(runs)
    while process.is_running() and not (runs / "tiny" / "vit" / "seed-7" / "seal.json").exists():
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    process.wait()
    images = sorted((runs / "tiny" / "data").rglob("*.jpg"))
    path = llm / "model.safetensors" if turn % 2 == 0 else draw.choice(images)
    content = bytearray(path.read_bytes())
    content[len(content) - 8 if turn % 2 == 0 else len(content) - 2] ^= 1
    path.write_bytes(content)
    again = site.start(runs)
    code = again.wait()
    is_refused = code not in (0, None) and "Traceback" not in again.error and bool(again.error)
    return Round(path.name, f"exit {code}: {again.error[:100]}", "" if is_refused else f"exit {code}: {again.error}")


def stale_claim(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Leave the claim of a worker that is gone: of another machine and old, torn, or of a process id used again."""
    claims = runs / "tiny" / "vit" / "seed-7" / "workers"
    claims.mkdir(parents=True)
    kind = ("of another machine, old", "torn, old", "of a process id used again")[turn % 3]
    holder = {"host": "elsewhere", "pid": 1, "machine": None, "born": None, "since": "2026-01-01T00:00:00"}
    if turn % 3 == 2:
        from eyeswap.study.claim import _machine

        holder |= {"machine": _machine(), "pid": os.getpid(), "born": "0"}
    text = json.dumps(holder)
    path = claims / "0001.json"
    path.write_text(text[: len(text) // 2] if turn % 3 == 1 else text)
    if turn % 3 != 2:
        os.utime(path, (time.time() - 3600,) * 2)
    return Round(kind, "taken over", place.go_on(runs))


def other_machine(place: Workplace, runs: Path, draw: random.Random, turn: int) -> Round:
    """Run where something that most machines have is missing: the ending must be the same."""
    name, before = list(MACHINES.items())[turn % len(MACHINES)]
    process = place.site.start(runs, before=before)
    code = process.wait()
    if "Operation not permitted" in process.log.read_text(errors="replace"):
        return Round(name, "not permitted here: not tried", "")
    problem = "" if code == 0 else f"exit {code}: {process.log.read_text(errors='replace')[-600:]}"
    return Round(name, f"exit {code}", problem or differences(place.expected, runs))


def _damage(path: Path, draw: random.Random) -> str:
    """Cut, change or delete a file; return what was done."""
    content = bytearray(path.read_bytes())
    kind = draw.choice(("cut", "changed", "deleted"))
    if kind == "deleted":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[draw.randrange(len(content))] ^= 0x55
        path.write_bytes(content)
    return f"{path.name} {kind}"


MACHINES: dict[str, Callable[[], object]] = {
    "no HOME": lambda: os.environ.pop("HOME", None),
    "HOME that is read-only": lambda: os.environ.update(HOME="/proc"),
    "no compiler": lambda: os.environ.update(CC="", PATH="/nowhere"),
    "one CPU by affinity": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "fork": lambda: multiprocessing.set_start_method("fork", force=True),
    "spawn": lambda: multiprocessing.set_start_method("spawn", force=True),
    "unknown user": lambda: os.environ.update(USER="", LOGNAME=""),
    "no /dev/shm": without_shared_memory,
}
KINDS: dict[str, Callable[[Workplace, Path, random.Random, int], Round]] = {
    "SIGKILL": killed(signal.SIGKILL, -signal.SIGKILL),
    "SIGINT": killed(signal.SIGINT, 130),
    "SIGTERM": killed(signal.SIGTERM, 143),
    "worker lost": worker_lost,
    "two at once": two_at_once,
    "full disk": full_disk,
    "read-only": read_only,
    "clock jump": clock_jump,
    "moved": moved,
    "damaged checkpoint": damaged_checkpoint,
    "damaged results": damaged_results,
    "changed between arms": changed_between_arms,
    "stale claim": stale_claim,
    "other machine": other_machine,
}


def table(rounds: int, seed: int, kinds: list[str] | None = None) -> int:
    """Print a row for each round and the sums; return 1 if anything went wrong."""
    draw = random.Random(seed)
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        print("running the study once without a fault ...", flush=True)
        place = Workplace.build(top)
        print(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in place.seconds.items()), flush=True)
        chosen = kinds or list(KINDS)
        for kind in chosen:
            for turn in range(1 if kind == "read-only" else rounds):
                runs = top / f"{kind.replace(' ', '-')}-{turn}"
                outcome = KINDS[kind](place, runs, draw, turn)
                bad[kind] += bool(outcome.problem)
                verdict = outcome.problem or "as it must be"
                print(f"{kind:<21} {outcome.moment:<34.34}  {outcome.seen:<60.60}  {verdict}", flush=True)
                for path in top.glob(f"{runs.name}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    total = sum(1 if kind == "read-only" else rounds for kind in chosen)
    print(f"{total} faults, {total - sum(bad.values())} as they must be")
    return int(bool(sum(bad.values())))
