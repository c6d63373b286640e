"""Weighted averages over benchmarks: VQA, localization, overall.

Every reported column weighs as many examples as it has, as in the study, where VQA v2 alone is 74 % of "VQA"
and "VQA" 87 % of "overall". TextVQA counts twice (with and without OCR tokens).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eyeswap.evaluation import BENCHMARKS

GROUPS = ("vqa", "localization")


def published_count(group: str) -> int:
    """Return how many examples the study has in a group, all columns together."""
    return sum(benchmark.num_published for benchmark in BENCHMARKS.values() if benchmark.group == group)


def weighted_average(parts: Iterable[tuple[float | None, int]]) -> dict[str, Any]:
    """Average scores by their number of examples; a score of None is left out with its examples.

    Args:
        parts: (score, number of examples).

    Returns:
        ``{"n", "score"}``; score is None if nothing is left.

    Example:
        >>> weighted_average([(50.0, 1), (80.0, 2)])
        {'n': 3, 'score': 70.0}
    """
    known = [(score, count) for score, count in parts if score is not None and count > 0]
    total = sum(count for _, count in known)
    return {"n": total, "score": sum(score * count for score, count in known) / total if total else None}


def averages(scores: Iterable[tuple[str, float | None, int]]) -> dict[str, dict[str, Any]]:
    """Return the averages of both groups and of everything.

    Args:
        scores: (group, score, number of examples) of each benchmark; all scores in one unit.

    Returns:
        ``{"vqa", "localization", "overall"}`` to ``{"n", "score"}``.
    """
    rows = list(scores)
    result = {
        group: weighted_average((score, count) for name, score, count in rows if name == group) for group in GROUPS
    }
    result["overall"] = weighted_average((score, count) for _, score, count in rows)
    return result
