"""Stop trainings and whole studies in every way that happens, start them again, and compare the endings.

    python -m tests.faults trainings --rounds 20   # kills at random moments and file operations of one training
    python -m tests.faults studies --rounds 20     # every kind of fault of a whole study, as many of each random kind
    python -m tests.faults studies --kind SIGTERM --rounds 3 --seed 1

Losses, weights, answers and scores must be equal to the last bit to those of an uninterrupted run. Prints a table, and
exits with 1 if anything was lost, passed unnoticed, or left running.
"""

from __future__ import annotations

import argparse
import sys

from tests.faults import studies, trainings


def main() -> int:
    """Run the table that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["trainings", "studies", "both"])
    parser.add_argument("--rounds", type=int, default=20, help="of each random kind")
    parser.add_argument("--seed", type=int, default=7, help="draws the moments")
    parser.add_argument("--kind", action="append", help="of the studies; repeat it (default: all)", metavar="KIND")
    options = parser.parse_args()
    failed = 0
    if options.table in ("trainings", "both"):
        failed |= trainings.table(options.rounds, options.seed)
    if options.table in ("studies", "both"):
        failed |= studies.table(options.rounds, options.seed, options.kind)
    return failed


if __name__ == "__main__":
    sys.exit(main())
