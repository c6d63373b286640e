"""The GPU benchmark says in one line that it needs a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_a_gpu_it_ends_with_one_line_and_code_2():
    finished = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert not finished.stdout
    assert finished.stderr.strip().splitlines() == ["benchmarks/gpu.py needs a CUDA GPU, and torch sees none here"]
