"""What can happen to the jobs of a study, case by case; each returns what was seen and what is wrong with it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.study_process import Process, Site, differences, ending
from tests.slurm.cluster import MOST_MINUTES, NUM_CPUS, slurm

PATIENCE_S = 240
_LIVE = ("--set", "execution.cache_gb=0")  # the backbone runs in every step, so that a pause in it makes a step last
Outcome = tuple[str, str]


@dataclass(frozen=True)
class Workplace:
    """What all cases share.

    Attributes:
        site: the study.
        expected: how it ends without Slurm.
    """

    site: Site
    expected: dict[str, Any]

    @classmethod
    def build(cls, top: Path) -> Workplace:
        """Write the study, with a backbone that pauses if it is told to, and run it."""
        site, runs = Site.build(top, num_train=96), top / "whole"
        encoders = site.file.parent / "encoders.py"
        pause = "import os, time\n        time.sleep(float(os.environ.get('PAUSE_S', '0')))\n        return self.stem"
        encoders.write_text(encoders.read_text().replace("return self.stem", pause))
        process = site.start(runs)
        if process.wait() != 0:
            raise SystemExit(f"the study does not even run without Slurm: {process.log.read_text()}")
        return cls(site, ending(runs))

    def submit(self, runs: Path, *options: str, pause_s: float = 0) -> Process:
        """Submit the study's jobs, one process each unless the options say otherwise; return the ended command."""
        command = ["study", "run", str(self.site.file), "--runs", str(runs), "--launcher", "slurm"]
        defaults = {"--slurm-gpus": "0", "--slurm-cpus": "1", "--slurm-hours": "0.5"}
        given = [part for name, value in defaults.items() if name not in options for part in (name, value)]
        live = _LIVE if pause_s else ()
        before = lambda: os.environ.update(PAUSE_S=str(pause_s))  # noqa: E731
        return self.site.start(runs, *command, *given, *options, *live, before=before)

    def start(self, runs: Path, *options: str, pause_s: float = 0) -> list[str]:
        """Submit the study's jobs and return their ids."""
        process = self.submit(runs, *options, pause_s=pause_s)
        if process.wait() != 0:
            raise RuntimeError(process.log.read_text())
        return re.findall(r"\b\d+(?:_\d+)?\b", re.search(r"shared by \d+ jobs?: (.*)", process.log.read_text())[1])

    def compare(self, runs: Path) -> str:
        """Write the report; return which parts of the ending are not those of the study without Slurm."""
        process = self.site.start(runs, "report", str(runs / "tiny"))
        if process.wait() != 0:
            return f"no report: {process.error}; {logs(runs)}"
        differing = differences(self.expected, runs)
        return f"another ending: {differing}" if differing else ""


def array(place: Workplace, runs: Path) -> Outcome:
    """Give each run a job of one array."""
    jobs = place.start(runs, "--slurm-jobs", "2")
    wait_for_end(jobs)
    return f"jobs {', '.join(jobs)}", place.compare(runs)


def one_job(place: Workplace, runs: Path) -> Outcome:
    """Let one job do all runs."""
    jobs = place.start(runs, "--slurm-jobs", "1")
    wait_for_end(jobs)
    return f"job {', '.join(jobs)} did {num_claims(runs)} runs", place.compare(runs)


def two_processes(place: Workplace, runs: Path) -> Outcome:
    """Let one job of two processes do all runs."""
    jobs = place.start(runs, "--slurm-jobs", "1", "--slurm-gpus", "2")
    wait_for_end(jobs)
    problem = place.compare(runs)
    if problem.startswith("no report"):
        return "", problem
    now, worst = ending(runs), 0.0
    for arm in ("vit", "vmamba"):
        before, after = (content[f"{arm}: losses"] for content in (place.expected, now))
        worst = max(worst, *(abs(loss - other) for (_, loss), (_, other) in zip(before, after, strict=True)))
        if ids(now[f"{arm}: answers"]) != ids(place.expected[f"{arm}: answers"]):
            return "", f"{arm}: other questions were answered"
    return f"losses differ by at most {worst:.0e}", "" if worst <= 1e-5 else "more than 1e-5"


def cancelled(place: Workplace, runs: Path) -> Outcome:
    """Cancel a job while it trains, and submit again."""
    jobs = place.start(runs, "--slurm-jobs", "1", pause_s=1)
    step = wait_for_step(runs, 3)
    slurm("scancel", *jobs)
    wait_for_end(jobs)
    kept = steps_of(runs)
    problem = "" if step <= kept <= step + 2 and not_lost(runs) else f"step {kept} after {step}; {logs(runs)}"
    wait_for_end(place.start(runs, "--slurm-jobs", "1"))
    return f"cancelled at step {step}, checkpoint of step {kept}", problem or place.compare(runs)


def time_limit(place: Workplace, runs: Path) -> Outcome:
    """Let the time limit strike in training: the job must queue itself again and go on where it was."""
    jobs = place.start(runs, "--slurm-jobs", "1", pause_s=6)
    step = wait_for_step(runs, 2)
    slurm("scontrol", "update", f"jobid={jobs[0]}", "timelimit=1")  # minutes, which is less than the warning before it
    wait_for_restart(jobs)
    slurm("scontrol", "update", f"jobid={jobs[0]}", "timelimit=30")
    kept = steps_of(runs)
    problem = "" if step <= kept and not_lost(runs) else f"step {kept} after {step}; {logs(runs)}"
    wait_for_end(jobs)
    return f"limit set at step {step}, queued itself again at step {kept}", problem or place.compare(runs)


def preempted(place: Workplace, runs: Path) -> Outcome:
    """Take the node away for a more urgent job: the study's must queue again and finish."""
    jobs = place.start(runs, "--slurm-jobs", "1", pause_s=1)
    step = wait_for_step(runs, 3)
    slurm("srun", "--partition=urgent", f"--cpus-per-task={NUM_CPUS}", "true")
    kept = steps_of(runs)
    problem = "" if step <= kept <= step + 2 and not_lost(runs) else f"step {kept} after {step}; {logs(runs)}"
    wait_for_end(jobs)
    return f"preempted at step {step}, checkpoint of step {kept}", problem or place.compare(runs)


def drained(place: Workplace, runs: Path) -> Outcome:
    """Drain the node: the job on it ends its work, one that is submitted meanwhile waits until the node is back."""
    node = socket.gethostname()
    first = place.start(runs, "--slurm-jobs", "1", pause_s=0.3)
    wait_for_step(runs, 3)
    slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    second = place.start(runs, "--slurm-jobs", "1")
    wait_for_end(first)
    problem = place.compare(runs)
    state = slurm("squeue", "--noheader", "--format=%T: %r", f"--jobs={second[0]}")
    slurm("scontrol", "update", f"nodename={node}", "state=resume")
    wait_for_end(second)
    return state, problem or ("" if state.startswith("PENDING") else "the second job did not wait")


def lost(place: Workplace, runs: Path) -> Outcome:
    """Declare the node down under a job: it must be queued again and finish when the node is back."""
    node = socket.gethostname()
    jobs = place.start(runs, "--slurm-jobs", "1", pause_s=1)
    step = wait_for_step(runs, 3)
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    time.sleep(1)
    state = slurm("squeue", "--noheader", "--format=%T", f"--jobs={jobs[0]}")
    slurm("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # unless it is back by itself
    wait_for_end(jobs)
    return f"lost at step {step}, then {state}", place.compare(runs)


def impossible(place: Workplace, runs: Path) -> Outcome:
    """Ask for what no node has: one line must say so at once, and nothing may stay in the queue."""
    requests = {
        "CPUs": ("--slurm-cpus", str(NUM_CPUS + 1)),
        "GPUs": ("--slurm-gpus", "3"),
        "nodes": ("--slurm-nodes", "2"),
        "hours": ("--slurm-hours", str(MOST_MINUTES / 60 + 1)),
        "memory": ("--slurm-option", "mem=9T"),
        "partition": ("--slurm-partition", "nowhere"),
        "feature": ("--slurm-option", "constraint=big"),
    }
    bad = []
    for name, request in requests.items():
        process = place.submit(runs, *request)
        code, text = process.wait(), process.log.read_text()
        others = [line for line in text.splitlines() if not line.startswith(("error: slurm: ", "sbatch: error: "))]
        if code != 2 or text.count("error: slurm: ") != 1 or others:
            bad.append(f"{name}: exit {code}: {text}")
    left = slurm("squeue", "--noheader")
    return f"{', '.join(requests)}: refused", "; ".join(bad) or (f"left in the queue: {left}" if left else "")


CASES: dict[str, Callable[[Workplace, Path], Outcome]] = {
    "array": array,
    "one job": one_job,
    "two processes": two_processes,
    "cancelled": cancelled,
    "time limit": time_limit,
    "preempted": preempted,
    "drained": drained,
    "node down": lost,
    "impossible requests": impossible,
}


def ids(answers: list[list[dict[str, Any]]]) -> list[list[str]]:
    """Return the ids of the examples of each benchmark."""
    return [[row["example_id"] for row in rows] for rows in answers]


def steps_of(runs: Path) -> int:
    """Return how many steps the runs' logs have."""
    return sum(path.read_text().count("\n") for path in runs.glob("tiny/*/seed-7/train.jsonl"))


def num_claims(runs: Path) -> int:
    """Return how many times a run was taken by a worker."""
    return len(list(runs.glob("tiny/*/seed-7/workers/*.json")))


def not_lost(runs: Path) -> bool:
    """Whether the last step of the log is in a checkpoint, so that nothing is done twice."""
    checkpoints = sorted(runs.glob("tiny/*/seed-7/checkpoints/step-*"))
    return bool(checkpoints) and int(checkpoints[-1].name.rpartition("-")[2]) == steps_of(runs)


def logs(runs: Path) -> str:
    """Return the end of what the jobs printed."""
    return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(runs.glob("tiny/slurm/*_log.*")))


def wait_for_step(runs: Path, step: int) -> int:
    """Wait until a step is in the log; return how many there are."""
    _wait(lambda: steps_of(runs) >= step, f"step {step}", runs)
    return steps_of(runs)


def wait_for_restart(jobs: list[str]) -> None:
    """Wait until a job was queued again."""
    _wait(lambda: "Restarts=0" not in slurm("scontrol", "show", "job", jobs[0]), "a restart")


def wait_for_end(jobs: list[str]) -> None:
    """Wait until no job is in the queue."""
    query = ["squeue", "--noheader", f"--jobs={','.join(jobs)}"]
    _wait(lambda: not subprocess.run(query, capture_output=True, check=False).stdout.strip(), "the end of the jobs")


def _wait(is_so: Callable[[], bool], what: str, runs: Path | None = None) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            printed = "" if runs is None else logs(runs)
            raise RuntimeError(f"waited {PATIENCE_S} s for {what}\n{slurm('squeue')}\n{printed}")
        time.sleep(0.2)
