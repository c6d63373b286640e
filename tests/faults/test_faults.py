"""The fault table at a small size: `python -m tests.faults` makes the whole one."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_killed_trainings_end_as_if_they_had_not_been():
    command = [sys.executable, "-m", "tests.faults", "--kills", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 kills (")
    assert done.stdout.splitlines()[-1].endswith("3 identical endings")
