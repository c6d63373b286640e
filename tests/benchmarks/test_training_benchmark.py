"""The benchmark of training runs, and its ways to take a step agree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.mark.extended
def test_ways_to_take_a_step_agree_and_packing_wastes_nothing(tmp_path: Path):
    sizes = ["--shape", "32x1", "--batch", "4", "--micro-batch", "2", "--tokens-per-pass", "1024", "--rounds", "1"]
    command = [sys.executable, SCRIPT, *sizes, "--recompute", "elementwise", "--json", tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    for difference in found["differences_to_packed"].values():
        assert difference["loss"] < 1e-5
        assert difference["grad_norm"] < 1e-4
    padding = {one["way"]: one["padding"] for one in found["training"]}
    assert padding["packed"] == 0 < padding["bucketed"]
    assert padding["published"] > 0
