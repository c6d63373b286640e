"""The study's order of a benchmark: one shuffle of the raw order, of which every slim set is a beginning."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

STUDY_SEED = 21

Item = TypeVar("Item")


def shuffled(items: Sequence[Item], seed: int = STUDY_SEED) -> list[Item]:
    """Return the items in the study's order: one shuffle by Python's own generator."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def subsample(items: Sequence[Item], size: int, part: Callable[[Item], Hashable], seed: int = STUDY_SEED) -> list[Item]:
    """Walk the shuffled items and keep the first ``size`` of each part; small parts are kept whole."""
    taken: dict[Hashable, int] = {}
    kept = []
    for item in shuffled(items, seed):
        key = part(item)
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= size:
            kept.append(item)
    return kept
