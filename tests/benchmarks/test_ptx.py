"""What ptxas says about the Triton kernels is read right, and says nothing bad about the kernel of VMamba."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]

SCRIPT = """
import json
from dataclasses import asdict
from benchmarks.ptx import MANY, access_widths, examine

ptx = "ld.global.v4.b32 {%r1}; @%p1 ld.global.L1::evict_last.b16 %rs1; st.global.v2.f32 [%rd1]; ld.shared.v4.b32 {%r2};"
print(json.dumps([access_widths(ptx, "ld"), access_widths(ptx, "st"), asdict(examine("ss2d", 1, 6, MANY, 90))]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Run in a fresh process, because Triton reads the environment when it is imported."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "TRITON_INTERPRET": "0"}
    root = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_global_accesses_are_counted_by_their_width(answers):
    loads, stores, _ = answers
    assert loads == {"16": 1, "2": 1}
    assert stores == {"8": 1}


def test_the_kernel_of_ss2d_keeps_all_in_registers_and_loads_vectors(answers):
    report = answers[2]
    assert report["spilled"] == report["stack"] == 0
    assert 0 < report["registers"] <= 255
    assert "16" in report["loads"]
