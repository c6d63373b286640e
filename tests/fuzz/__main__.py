"""Read inputs that nobody meant to write, and see that each is read or refused in one line, soon and in little memory.

    python -m tests.fuzz all --cases 10000          # every kind; prints a table
    python -m tests.fuzz images --cases 500 --seed 3

A case of a kind and seed is the same every time, so a failure can be looked at again: `--only CASE`. Exits with 1 if a
case raised anything but an error of eyeswap's own, took longer than 5 s, or took more memory than 50 times its file and
500 MB.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.watch import Outcome, watch

BAD = ("exception", "hang", "memory")


def fuzz(kind: Kind, cases: int, seed: int = 0, only: int | None = None) -> list[tuple[int, Outcome]]:
    """Return the outcome of each case of a kind, with its number."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        kind.prepare(folder)
        outcomes = []
        for number in range(cases) if only is None else [only]:
            read, size = kind.case(folder, random.Random(f"{kind.name}/{seed}/{number}"))
            outcomes.append((number, watch(read, size)))
    return outcomes


def main() -> int:
    """Fuzz the kinds that are asked for, and print a row for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["all", *(kind.name for kind in KINDS)])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="CASE", help="one case alone")
    options = parser.parse_args()
    heads = ("read", "refused", "exceptions", "hangs", "memory", "most s", "most MB")
    print(f"{'kind':<12} {'cases':>7}" + "".join(f" {head:>10}" for head in heads))
    failed = False
    for kind in KINDS:
        if options.kind not in ("all", kind.name):
            continue
        outcomes = fuzz(kind, options.cases, options.seed, options.only)
        counts = Counter(outcome.kind for _, outcome in outcomes)
        slowest = max(outcome.seconds for _, outcome in outcomes)
        largest = max(outcome.peak_bytes for _, outcome in outcomes) / 1e6
        print(
            f"{kind.name:<12} {len(outcomes):>7}"
            + "".join(f" {counts[name]:>10}" for name in ("read", "refused", *BAD))
            + f" {slowest:>10.2f} {largest:>10.0f}",
            flush=True,
        )
        bad = [(number, outcome) for number, outcome in outcomes if outcome.kind in BAD]
        failed |= bool(bad)
        seen: set[str] = set()
        for number, outcome in bad:
            if outcome.about[:40] not in seen:
                seen.add(outcome.about[:40])
                print(f"    case {number}: {outcome.kind}: {outcome.about}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
