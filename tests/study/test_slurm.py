"""Jobs for Slurm: the script that is submitted, and a worker that is preempted, queued again and goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import load_study
from eyeswap.study.claim import holder_of
from eyeswap.study.slurm import SlurmOptions, logs, parse_options, submit
from eyeswap.study.status import status_of
from planned_runs import begin_run, finish_run

SBATCH = """#!/bin/sh
if [ -n "$FAKE_REFUSAL" ]; then echo "sbatch: error: $FAKE_REFUSAL" >&2; exit 1; fi
cp "$1" "$FAKE_SLURM/script.sh"
echo "Submitted batch job 4711"
"""
SRUN = """#!/bin/sh
while :; do case "$1" in --unbuffered) shift;; --output|--error) shift 2;; *) break;; esac; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$FAKE_SLURM/scontrol.txt"
"""
SQUEUE = """#!/bin/sh
echo "$FAKE_REASON"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$FAKE_SLURM/scancel.txt"
"""
IN_A_JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SUBMITIT_EXECUTOR": "slurm",
}
STUDY = """
question: Does a job go on where it was stopped?
recipe:
  data: {{name: digits, num_train_images: 20, num_val_images: 4, turns: 2}}
  llm: {llm}
  global_batch: 1
  precision: fp32
arms: {{vit: encoder.py:vit}}
benchmarks: [pope]
execution: {{checkpoint_every_s: 0}}
"""
ENCODER = """
from eyeswap.backbones import catalog

def vit():
    entry = catalog.entry("digits-vit")
    return entry.build(), entry.geometry
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's commands, first on the PATH, that keep what they are told."""
    folder = tmp_path / "slurm-commands"
    folder.mkdir()
    for name, text in (
        ("sbatch", SBATCH),
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("squeue", SQUEUE),
        ("scancel", SCANCEL),
    ):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("FAKE_REASON", "")
    return folder


def directives(slurm: Path) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([^=\n]+)=?(.*)$", (slurm / "script.sh").read_text(), re.MULTILINE)
    return dict(lines)


def test_the_script_asks_for_what_the_options_say(slurm: Path, tmp_path: Path) -> None:
    options = SlurmOptions("gpu", 1.5, 2, 4, 6, 3, parse_options(["account=vision", "--mail-type=END", "exclusive"]))
    jobs = submit(Path("studies/mine.yaml"), tmp_path, 5, options)
    assert jobs == ["4711_0", "4711_1", "4711_2"]
    asked = directives(slurm)
    wanted = {
        "partition": "gpu", "time": "90", "nodes": "2", "gpus-per-node": "4", "ntasks-per-node": "4",
        "cpus-per-task": "6", "account": "vision", "mail-type": "END", "requeue": "", "exclusive": "",
        "job-name": "eyeswap-mine",
    }  # fmt: skip
    assert {key: asked.get(key, "absent").strip("\"'") for key in wanted} == wanted
    assert asked["array"].startswith("0-2%")
    assert asked["signal"].endswith("USR2@90")
    assert asked["output"].startswith(str(logs(Path("studies/mine.yaml"), tmp_path)))


def test_there_are_never_more_jobs_than_runs_and_no_gpu_need_be_asked_for(slurm: Path, tmp_path: Path) -> None:
    assert len(submit(Path("mine.yaml"), tmp_path, 2, SlurmOptions(gpus=0))) == 2
    assert "gpus-per-node" not in directives(slurm)
    assert directives(slurm)["ntasks-per-node"] == "1"


def test_without_slurm_or_submitit_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"srun is not on the PATH.*login node") as told:
        submit(Path("mine.yaml"), tmp_path, 2, SlurmOptions())
    assert "\n" not in str(told.value)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'eyeswap\[slurm\]'"):
        submit(Path("mine.yaml"), tmp_path, 2, SlurmOptions())


def test_what_slurm_refuses_is_one_line(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_REFUSAL", "invalid partition specified: gpus")
    with pytest.raises(EnvironmentProblem, match="invalid partition specified: gpus") as told:
        submit(Path("mine.yaml"), tmp_path, 2, SlurmOptions("gpus"))
    assert "\n" not in str(told.value)


def test_jobs_that_would_pend_without_end_are_cancelled(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reason in ("PartitionTimeLimit", "PartitionConfig", "QOSMaxWallDurationPerJobLimit"):
        monkeypatch.setenv("FAKE_REASON", reason)
        with pytest.raises(EnvironmentProblem, match=rf"{reason}.*1 x 32 CPUs and 4 GPUs for 24 h in gpu") as told:
            submit(Path("mine.yaml"), tmp_path, 2, SlurmOptions("gpu", gpus=4))
        assert "\n" not in str(told.value)
    assert (slurm / "scancel.txt").read_text().splitlines() == ["4711"] * 3
    for reason in ("Resources", "Priority", "ReqNodeNotAvail, UnavailableNodes:n1", ""):
        monkeypatch.setenv("FAKE_REASON", reason)
        assert len(submit(Path("mine.yaml"), tmp_path, 2, SlurmOptions("gpu", gpus=4))) == 2


@pytest.mark.parametrize("text", ["=x", "account=", "", "--"])
def test_an_option_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--slurm-option.*KEY=VALUE"):
        parse_options([text])


@pytest.mark.parametrize("change", [{"hours": 0}, {"nodes": 0}, {"gpus": -1}, {"jobs": -2}, {"hours": float("nan")}])
def test_impossible_requests_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=f"--slurm-{next(iter(change))}"):
        SlurmOptions(**change)


def test_the_command_submits_what_is_not_done_and_says_where_to_look(slurm: Path, tmp_path: Path) -> None:
    file, runs = tmp_path / "mine.yaml", tmp_path / "runs"
    text = STUDY.format(llm="digits-llm").replace("{vit: encoder.py:vit}", "{vit: digits-vit, vmamba: digits-vmamba}")
    file.write_text(text, encoding="utf-8")
    done, _ = plan_runs(load_study(file), runs)
    finish_run(done)
    command = ["study", "run", str(file), "--runs", str(runs), "--launcher", "slurm"]
    told = CliRunner().invoke(app, [*command, "--slurm-partition", "gpu", "--slurm-option", "account=vision"])
    assert told.exit_code == 0, told.output
    assert "1 of 2 runs left, shared by 1 job: 4711\n" in told.stdout
    assert str(logs(file, runs)) in told.stdout
    assert directives(slurm)["partition"].strip("\"'") == "gpu"
    (slurm / "script.sh").unlink()
    begin_run(done, model=done.model.model_copy(update={"seed": 8}))
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert "holds a run of another version" in told.stderr
    assert not (slurm / "script.sh").exists()


@pytest.mark.extended
def test_a_preempted_job_is_queued_again_and_finishes_the_study(
    slurm: Path, tmp_path: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoder.py").write_text(ENCODER, encoding="utf-8")
    file, runs = tmp_path / "mine.yaml", tmp_path / "runs"
    file.write_text(STUDY.format(llm=tiny_llm), encoding="utf-8")
    (run,) = plan_runs(load_study(file), runs)
    submit(file, runs, 1, SlurmOptions(gpus=0))
    command = ["bash", str(slurm / "script.sh")]
    environment = {**os.environ, **IN_A_JOB, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 120
        while not status_of(run).step:
            assert job.poll() is None, job.stderr.read() if job.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)
        holder = holder_of(run.folder)
        assert holder is not None
        os.kill(holder.pid, signal.SIGUSR2)
    assert (slurm / "scontrol.txt").read_text(encoding="utf-8") == "requeue 4711\n"
    assert run.state() == "unfinished"
    last = holder_of(run.folder)
    assert last is not None
    assert last.end == "interrupted"
    steps = status_of(run).step
    assert 0 < steps < 20
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    DelayedSubmission.load(logs(file, runs) / "4711_submitted.pkl").result()  # what the job does when it starts again
    assert run.state() == "done"
    rows = [json.loads(line) for line in (run.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(20))
