"""Simulate rank correlations: coverage of their intervals, and false alarms of the permutation test.

Two variables of each arm are drawn from a normal distribution with a known correlation ``r``, for which the true rank
correlations are known: ``6 / pi * arcsin(r / 2)`` (Spearman) and ``2 / pi * arcsin(r)`` (Kendall).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eyeswap.statistics.correlation import METHODS, Method, correlate, interval
from eyeswap.statistics.resampling import LEVEL
from eyeswap.statistics.tails import Floats

ARMS = (6, 10, 15, 30)
TRUTHS = (0.0, 0.5, 0.8)
MAX_TESTED = 6  # arms; the permutation test enumerates all orders, which is slow for more
_BLOCK = 1000  # studies


@dataclass(frozen=True)
class Coverage:
    """The outcome of many studies of ``num_arms`` arms, as shares of studies.

    Attributes:
        num_arms: number of arms in a study.
        truth: correlation of the normal distribution.
        held: method to the share of intervals that contain the truth.
        false_alarms: method to the share of true nulls rejected; empty if there is a correlation, or for many arms.
    """

    num_arms: int
    truth: float
    held: dict[Method, float]
    false_alarms: dict[Method, float]


def try_correlation(num_arms: int, truth: float, num_studies: int = 2000, seed: int = 0) -> Coverage:
    """Simulate studies and count how often intervals contain the truth and tests reject a true null."""
    generator = np.random.default_rng([seed, num_arms, round(1000 * truth)])
    x = generator.standard_normal((num_studies, num_arms))
    y = truth * x + math.sqrt(1 - truth**2) * generator.standard_normal((num_studies, num_arms))
    true = {"spearman": 6 / math.pi * math.asin(truth / 2), "kendall": 2 / math.pi * math.asin(truth)}
    held, alarms = {}, {}
    for method in METHODS:
        values = _spearman(x, y) if method == "spearman" else _kendall(x, y)
        bounds = [interval(float(value), num_arms, method) for value in values]
        held[method] = float(np.mean([ends is not None and ends[0] <= true[method] <= ends[1] for ends in bounds]))
        if truth == 0 and num_arms <= MAX_TESTED:
            tested = [correlate(list(a), list(b), method) for a, b in zip(x, y, strict=True)]
            alarms[method] = float(np.mean([result.p is not None and result.p < 1 - LEVEL for result in tested]))
    return Coverage(num_arms, truth, held, alarms)


def _spearman(x: Floats, y: Floats) -> Floats:
    """Return Spearman's correlation of each row, ``[studies]``; no ties."""
    distance = stats.rankdata(x, axis=1) - stats.rankdata(y, axis=1)
    n = x.shape[1]
    return np.asarray(1 - 6 * (distance**2).sum(axis=1) / (n**3 - n))


def _kendall(x: Floats, y: Floats) -> Floats:
    """Return Kendall's correlation of each row, ``[studies]``; no ties."""
    taus = []
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        a, b = (np.sign(values[rows, :, np.newaxis] - values[rows, np.newaxis]) for values in (x, y))
        taus.append((a * b).sum(axis=(1, 2)) / (x.shape[1] * (x.shape[1] - 1)))
    return np.concatenate(taus)


def print_table(num_studies: int) -> None:
    """Print the coverage and false alarms of rank correlations as a Markdown table."""
    print("| arms | true r | Spearman held | Kendall held | Spearman false alarms | Kendall false alarms |")
    print("|--:|--:|--:|--:|--:|--:|")
    for num_arms in ARMS:
        for truth in TRUTHS:
            coverage = try_correlation(num_arms, truth, num_studies)
            shares = [*coverage.held.values(), *(coverage.false_alarms.get(method) for method in METHODS)]
            cells = " | ".join("" if share is None else f"{100 * share:.1f}" for share in shares)
            print(f"| {num_arms} | {truth:g} | {cells} |", flush=True)
