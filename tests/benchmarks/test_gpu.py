"""The GPU benchmarks say in one line that they need a GPU; all of their lines are rehearsed on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
@pytest.mark.parametrize("script", ["gpu.py", "gpu_run.py"])
def test_without_a_gpu_it_ends_with_one_line_and_code_2(script: str):
    finished = subprocess.run([sys.executable, BENCHMARKS / script], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert not finished.stdout
    assert f"benchmarks/{script} needs a CUDA GPU, and torch sees none here" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_a_step_that_takes_too_long_is_ended_and_what_it_measured_is_kept(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_run

    (tmp_path / "slow.py").write_text(
        "import pathlib, sys, time\n"
        "print('measured')\n"
        "pathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text('[1]')\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu_run, "HERE", tmp_path)
    slow = gpu_run.Step("slow", "slow.py", (), (), 600)
    outcomes = [gpu_run.run_step(slow, tmp_path, 5, rehearse=False), gpu_run.Outcome("later")]
    gpu_run.write_summary(tmp_path, "a machine", outcomes)
    assert (outcomes[0].ended, outcomes[0].results, outcomes[0].output) == ("out of time", [1], "measured")
    assert [step["ended"] for step in json.loads((tmp_path / "gpu.json").read_text())["steps"]] == [
        "out of time",
        "not begun",
    ]
    assert "| later | not begun | 0 |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.extended
@pytest.mark.timeout(1800)
def test_every_line_is_rehearsed(tmp_path: Path):
    command = [sys.executable, BENCHMARKS / "gpu_run.py", "--rehearse", "--out", tmp_path]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, (tmp_path / "gpu.md").read_text()
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {step["name"]: step["ended"] for step in steps} == dict.fromkeys(
        ("checks", "core", "networks", "latency", "training", "evaluation"), "done"
    )
    measured = {step["name"]: step["results"] for step in steps}
    assert {row["name"] for row in measured["core"]["core"]} == {"reference", "fused"}
    assert {row["mode"] for row in measured["latency"]["latency"]} == {"eager", "CUDA graph"}
    assert measured["training"]["training"]
    assert measured["evaluation"]
