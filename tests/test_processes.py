"""Pools of workers do what is asked, also when a script without a main guard starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
from math import factorial
from pathlib import Path
from eyeswap.processes import worker_pool

with Path("runs.txt").open("a") as stream:
    stream.write("run\\n")
with worker_pool(2) as workers:
    print(list(workers.map(factorial, range(5))))
"""


def test_a_script_without_a_main_guard_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    for command in ([sys.executable, "script.py"], [sys.executable, "-c", SCRIPT]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "[1, 1, 2, 6, 24]\n"), done.stderr
    assert (tmp_path / "runs.txt").read_text(encoding="utf-8") == "run\nrun\n"


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, eyeswap.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
