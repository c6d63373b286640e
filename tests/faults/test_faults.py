"""The fault tables at a small size: `python -m tests.faults both` makes the whole ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("SIGKILL", "SIGTERM", "damaged results")


@pytest.mark.extended
def test_killed_trainings_and_studies_end_as_if_nothing_had_happened():
    kinds = [argument for kind in KINDS for argument in ("--kind", kind)]
    command = [sys.executable, "-m", "tests.faults", "both", "--rounds", "1", *kinds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^1 kills \(\d within a checkpoint's write\), 1 identical endings$", done.stdout, re.M)
    assert done.stdout.splitlines()[-1] == "3 faults, 3 as they must be"
