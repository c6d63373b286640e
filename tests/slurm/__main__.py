"""Run a tiny study on a real Slurm of one node on loopback, disturb it in every way, and compare the endings.

    make test-slurm                                 # installs Debian's Slurm first, if root may
    python -m tests.slurm --case preempted --case drained

Losses, weights, answers and scores must be equal to the last bit to those of the study without Slurm; where a job is
two processes, whose sums round differently, losses within 1e-5 and the ids of answers. Prints a table, and exits with 1
if anything is not as it must be. Needs root; says so and exits with 0 otherwise.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.slurm.cases import CASES, Workplace
from tests.slurm.cluster import cluster, why_not


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES, help="repeat it (default: all)")
    names = parser.parse_args().case or list(CASES)
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons end too
    os.environ["OMP_NUM_THREADS"] = "1"
    num_bad = 0
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        print("running the study once without Slurm ...", flush=True)
        place = Workplace.build(top)
        with cluster(top / "cluster"):
            for case in names:
                began = time.monotonic()
                seen, problem = CASES[case](place, top / case.replace(" ", "-"))
                num_bad += bool(problem)
                verdict = problem or "as it must be"
                print(f"{case:<20} {seen:<78.78} {time.monotonic() - began:4.0f} s  {verdict}", flush=True)
    print(f"{len(names)} cases, {len(names) - num_bad} as they must be")
    return int(bool(num_bad))


if __name__ == "__main__":
    sys.exit(main())
