"""Verify a finished run: its files match the seal, and its scores follow from its predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from eyeswap.errors import DataError
from eyeswap.results.run import Run
from eyeswap.results.scores import BenchmarkScore, Score, score_run, summarize
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.seal import changed_files, missing_files, unsealed_files

_TOLERANCE = 1e-3  # percent; scores are stored with four decimals


def problems_of(run_dir: Path) -> Iterator[str]:
    """Yield the reasons why the results of a finished run cannot be trusted; none if they can."""
    try:
        if RunFolder(run_dir).seal.is_file():
            checks = {"changed": changed_files, "missing": missing_files, "not in the seal": unsealed_files}
            for kind, check in checks.items():
                files = list(check(run_dir))
                if files:
                    yield f"files {kind}: {', '.join(files)}"
        for name, difference in score_differences(Run(run_dir)).items():
            yield f"scores.json: {name}: {difference}"
    except DataError as problem:
        yield str(problem)


def score_differences(run: Run, *, with_intervals: bool = False) -> dict[str, str]:
    """Return how benchmarks and averages of ``scores.json`` differ from what the predictions give, by name.

    Args:
        run: the run; benchmarks that its study no longer has are checked too.
        with_intervals: whether to compare intervals; another version may have computed them differently.

    Raises:
        DataError: if a file is missing or damaged.
    """
    stored = run.stored_scores
    is_complete = set(run.asked) == set(stored.benchmarks)
    rescored = summarize(run.predictions) if is_complete else score_run(run.folder)
    differences: dict[str, str] = {}
    for before, now in ((stored.benchmarks, rescored.benchmarks), (stored.averages, rescored.averages)):
        for name in dict.fromkeys([*before, *now]):
            if name not in before or name not in now:
                differences[name] = "is missing" if name in now else "has no predictions"
                continue
            old, new = (_numbers(scores[name], with_intervals=with_intervals) for scores in (before, now))
            keys = [key for key, value in new.items() if not abs(old.get(key, math.nan) - value) <= _TOLERANCE]
            if keys:
                differences[name] = ", ".join(f"{key} {old.get(key)}, the predictions give {new[key]}" for key in keys)
    return differences


def _numbers(entry: BenchmarkScore | Score, *, with_intervals: bool) -> dict[str, float]:
    """Return the numbers of a benchmark or an average, by name."""
    score = entry if isinstance(entry, Score) else entry.score
    numbers = {"n": float(score.n), "score": score.value, "baseline": score.baseline, "gain": score.gain}
    if isinstance(entry, BenchmarkScore):
        numbers |= {"invalid answers": entry.invalid_rate, "errors": float(entry.errors)}
        numbers |= {f"subset {name}": part.get("score", math.nan) for name, part in entry.subsets.items()}
    if with_intervals:
        bounds = {"low": score.low, "high": score.high, "low gain": score.gain_low, "high gain": score.gain_high}
        numbers |= bounds
    return numbers
