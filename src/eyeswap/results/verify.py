"""Are a run's results what they were when it ended, and do its scores follow from its answers?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from eyeswap.errors import DataError
from eyeswap.results.scores import BenchmarkScore, Score, read_scores, score_run
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.seal import changed_files, missing_files, unsealed_files

_CLOSE = 1e-3  # percent; scores are written with four decimals


def problems_of(run_dir: Path) -> Iterator[str]:
    """Yield, in words, why the results of a finished run cannot be relied on; nothing if they can."""
    try:
        if RunFolder(run_dir).seal.is_file():
            checks = {"changed": changed_files, "missing": missing_files, "not in the seal": unsealed_files}
            for kind, check in checks.items():
                files = list(check(run_dir))
                if files:
                    yield f"files {kind}: {', '.join(files)}"
        for place, why in score_differences(run_dir).items():
            yield f"scores.json: {place}: {why}"
    except DataError as problem:
        yield str(problem)


def score_differences(run_dir: Path, *, with_intervals: bool = False) -> dict[str, str]:
    """Return which benchmarks and averages of ``scores.json`` are not what the predictions give, and how.

    Args:
        run_dir: the run's folder.
        with_intervals: whether intervals count; another version may have computed them in another way.

    Raises:
        DataError: if a file is missing or damaged.
    """
    stored, scored = read_scores(RunFolder(run_dir).scores), score_run(run_dir)
    found: dict[str, str] = {}
    for before, now in ((stored.benchmarks, scored.benchmarks), (stored.averages, scored.averages)):
        for place in dict.fromkeys([*before, *now]):
            if place not in before or place not in now:
                found[place] = "is missing" if place in now else "has no predictions"
                continue
            old, new = (_numbers(one[place], with_intervals=with_intervals) for one in (before, now))
            apart = [key for key, value in new.items() if not abs(old.get(key, math.nan) - value) <= _CLOSE]
            if apart:
                found[place] = ", ".join(f"{key} {old.get(key)}, the predictions give {new[key]}" for key in apart)
    return found


def _numbers(one: BenchmarkScore | Score, *, with_intervals: bool) -> dict[str, float]:
    """Return the numbers of a benchmark or of an average, by name."""
    score = one if isinstance(one, Score) else one.score
    numbers = {"n": float(score.n), "score": score.value, "baseline": score.baseline, "gain": score.gain}
    if isinstance(one, BenchmarkScore):
        numbers |= {"invalid answers": one.invalid_rate, "errors": float(one.errors)}
        numbers |= {f"subset {name}": part["score"] for name, part in one.subsets.items()}
    if with_intervals:
        bounds = {"low": score.low, "high": score.high, "low gain": score.gain_low, "high gain": score.gain_high}
        numbers |= bounds
    return numbers
