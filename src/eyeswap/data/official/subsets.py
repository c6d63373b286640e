"""The study's order of a benchmark: a shuffle of the file order, of which slim sets take the first examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

STUDY_SEED = 21

Item = TypeVar("Item")


def shuffled(items: Sequence[Item], seed: int = STUDY_SEED) -> list[Item]:
    """Return the items in the study's order, shuffled by Python's own generator."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def subsample(items: Sequence[Item], size: int, part: Callable[[Item], Hashable], seed: int = STUDY_SEED) -> list[Item]:
    """Return the first ``size`` of the shuffled items of each part, or all of a smaller part."""
    counts: dict[Hashable, int] = {}
    kept = []
    for item in shuffled(items, seed):
        key = part(item)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= size:
            kept.append(item)
    return kept
