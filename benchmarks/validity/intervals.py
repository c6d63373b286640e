"""Simulate studies with known truth: coverage of 95% intervals, and error rates and power of tests.

`python -m benchmarks.validity.intervals` prints the tables of ``docs/statistics.md``. Each simulated study draws images
of unequal difficulty with unequal numbers of questions, which two arms answer. Many studies with the same layout of
questions are computed as the arms of one `Sample`, by the code that analyses real studies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from benchmarks.validity.correlations import print_table
from benchmarks.validity.seeds import tables
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from eyeswap.statistics.differences import holm, sample_differences, sample_intervals, sign_flips
from eyeswap.statistics.equivalence import equivalence, minimum_detectable
from eyeswap.statistics.ranks import rank_intervals
from eyeswap.statistics.resampling import LEVEL, Sample
from eyeswap.statistics.tails import Floats

ALPHA = 1 - LEVEL
_BLOCK = 250  # studies with the same layout of questions
_NUM_FLIPS = 1999
_SPREAD = 0.25  # largest deviation of an image's difficulty from the mean


@dataclass(frozen=True)
class Scenario:
    """One kind of simulated study.

    Attributes:
        title: name for tables.
        num_images: number of images in a study.
        sizes: draws the number of questions about each image.
        p: probability of a correct answer.
        unlike: whether all images are equally hard for the second arm, but not for the first.
        crowded: whether images with many questions are harder.
        second_benchmark: whether half of the images also belong to a second benchmark, with a third of the weight.
    """

    title: str
    num_images: int
    sizes: Callable[[Generator, int], NDArray[np.int64]]
    p: float = 0.6
    unlike: bool = False
    crowded: bool = False
    second_benchmark: bool = False

    @property
    def truth(self) -> float:
        """The true score over questions, to which crowded images contribute more."""
        if not self.crowded:
            return self.p
        sizes = np.arange(1, 9)
        return float((sizes * _crowded(self.p, sizes)).sum() / sizes.sum())


def _one(generator: Generator, count: int) -> NDArray[np.int64]:
    return np.ones(count, dtype=np.int64)


def _six(generator: Generator, count: int) -> NDArray[np.int64]:
    return np.full(count, 6)


def _one_to_eight(generator: Generator, count: int) -> NDArray[np.int64]:
    return generator.integers(1, 9, count)


def _heavy_tail(generator: Generator, count: int) -> NDArray[np.int64]:
    return np.minimum(generator.zipf(2.0, count), 30)


def _crowded(p: float, sizes: NDArray[np.int64]) -> Floats:
    return np.asarray(p + 0.04 * (4.5 - sizes))


SCENARIOS = (
    Scenario("60 images, one question each", 60, _one),
    Scenario("60 images, six questions each", 60, _six, 0.7),
    Scenario("100 images, 1 to 8 questions", 100, _one_to_eight),
    Scenario("100 images, 1 to 8 questions, arms unlike", 100, _one_to_eight, 0.5, unlike=True),
    Scenario("100 images, crowded ones harder", 100, _one_to_eight, 0.5, crowded=True),
    Scenario("200 images, 1 to 30 questions, heavy tail", 200, _heavy_tail),
    Scenario("100 images in two benchmarks, weights 3 to 1", 100, _one_to_eight, second_benchmark=True),
    Scenario("150 images, rare hits", 150, _one_to_eight, 0.12),
)


@dataclass(frozen=True)
class Layout:
    """The image of each question, ``[n_b]`` per benchmark, and the benchmarks' weights."""

    clusters: list[NDArray[np.int64]]
    sizes: NDArray[np.int64]
    weights: list[float] | None


def layout(scenario: Scenario, generator: Generator) -> Layout:
    """Draw the questions of a study."""
    sizes = scenario.sizes(generator, scenario.num_images)
    clusters = [np.repeat(np.arange(scenario.num_images), sizes)]
    if not scenario.second_benchmark:
        return Layout(clusters, sizes, None)
    clusters.append(np.repeat(np.arange(0, scenario.num_images, 2), 2))
    return Layout(clusters, sizes, [3.0, 1.0])


def answers(
    scenario: Scenario, where: Layout, num_studies: int, generator: Generator, loss: float = 0.0, num_arms: int = 2
) -> list[Floats]:
    """Draw the scores of all arms in many studies, ``[num_arms * num_studies, n_b]`` per benchmark.

    The arms share half of the difficulty of an image. The first arm is worse than the others by ``loss``.
    """
    p = _crowded(scenario.p, where.sizes) if scenario.crowded else np.full(scenario.num_images, scenario.p)
    spread = np.minimum(_SPREAD, np.minimum(p, 1 - p))  # [m]
    shape = (num_studies, scenario.num_images)
    shared = generator.uniform(-1, 1, shape)
    scores: list[list[Floats]] = [[] for _ in where.clusters]
    for arm in range(num_arms):
        half_shared = np.where(generator.random(shape) < 0.5, shared, generator.uniform(-1, 1, shape))
        hardness = np.zeros(shape) if scenario.unlike and arm else half_shared
        chance = p + spread * hardness  # [studies, m]
        if arm == 0:
            chance = chance * (1 - loss / scenario.truth)
        for benchmark, images in enumerate(where.clusters):
            right = generator.random((num_studies, len(images))) < chance[:, images]
            scores[benchmark].append(right.astype(np.float64))
    return [np.concatenate(rows) for rows in scores]


@dataclass(frozen=True)
class Outcome:
    """The outcome of many studies of one scenario, as shares of studies.

    Attributes:
        scenario: title of the scenario.
        num_studies: number of studies.
        score: intervals of a score that contain the truth.
        difference: intervals of a difference that contain the truth.
        sign_flip: true nulls rejected by the sign-flip test.
        interval: true nulls rejected because the interval excludes zero.
        mcnemar: true nulls rejected by McNemar's test on the questions.
        no_worse: arms called "no worse" that are worse by exactly the margin.
        power: detected differences of the minimum detectable size.
    """

    scenario: str
    num_studies: int
    score: float
    difference: float
    sign_flip: float
    interval: float
    mcnemar: float
    no_worse: float
    power: float


def try_scenario(scenario: Scenario, num_studies: int = 2000, seed: int = 0) -> Outcome:
    """Simulate studies of one kind and count how often intervals and tests are correct."""
    generator = np.random.default_rng([seed, *scenario.title.encode()])
    pairs = [(study, study + _BLOCK) for study in range(_BLOCK)]
    shares = []
    for number in range(-(-num_studies // _BLOCK)):
        where = layout(scenario, generator)
        rows = answers(scenario, where, _BLOCK, generator)
        equal = Sample(rows, where.clusters, where.weights)
        scores = sample_intervals(equal, seed=number)[:_BLOCK]
        differences = list(sample_differences(equal, seed=number, pairs=pairs).values())
        flips = sign_flips(equal, _NUM_FLIPS, number, pairs)
        margin = float(np.mean([minimum_detectable(interval) for interval in differences]))
        rows_worse = answers(scenario, where, _BLOCK, generator, loss=margin)
        unequal = Sample(rows_worse, where.clusters, where.weights)
        worse = list(sample_differences(unequal, seed=number, pairs=pairs).values())
        shares.append(
            [
                np.mean([interval.low <= scenario.truth <= interval.high for interval in scores]),
                np.mean([interval.low <= -margin <= interval.high for interval in worse]),
                np.mean([p < ALPHA for p in flips.values()]),
                np.mean([abs(interval.value) > interval.half_width() for interval in differences]),
                np.mean(_mcnemar(np.concatenate(rows, axis=1)) < ALPHA),
                np.mean([equivalence(interval, margin).p_no_worse < ALPHA for interval in worse]),
                np.mean([abs(interval.value) > interval.half_width() for interval in worse]),
            ]
        )
    return Outcome(
        scenario.title,
        len(shares) * _BLOCK,
        *(float(share) for share in np.array(shares, dtype=np.float64).mean(axis=0)),
    )


def _mcnemar(rows: Floats) -> Floats:
    """Return McNemar's p-value of each study, as `differences.mcnemar`, from scores ``[2 * studies, n]``."""
    a, b = rows[:_BLOCK], rows[_BLOCK:]
    only_a, only_b = (a > b).sum(axis=1), (b > a).sum(axis=1)
    return np.asarray(np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5)))


@dataclass(frozen=True)
class Family:
    """The outcome of many studies of six arms, as shares of studies.

    Attributes:
        title: the true scores of the arms.
        num_studies: number of studies.
        any_wrong: studies in which any two equal arms are told apart, or any two arms are put in the wrong order.
        all_ranks: studies in which the intervals of all ranks contain the truth.
    """

    title: str
    num_studies: int
    any_wrong: float
    all_ranks: float


FAMILIES = {
    "six equal arms": (0.6, 0.6, 0.6, 0.6, 0.6, 0.6),
    "three pairs of equals": (0.5, 0.5, 0.6, 0.6, 0.7, 0.7),
    "six steps of 4 points": (0.5, 0.54, 0.58, 0.62, 0.66, 0.7),
}


def try_family(title: str, num_studies: int = 2000, seed: int = 0) -> Family:
    """Simulate studies of six arms and count how often Holm's correction and the rank intervals are correct."""
    truth = np.array(FAMILIES[title])
    generator = np.random.default_rng([seed, *title.encode()])
    wrong, held, at_once, arms = 0, 0, 50, len(truth)
    for number in range(-(-num_studies // at_once)):
        sizes = generator.integers(1, 9, 120)
        images = np.repeat(np.arange(len(sizes)), sizes)
        shared = generator.uniform(-_SPREAD, _SPREAD, (at_once, 1, len(sizes)))
        chance = (truth[:, np.newaxis] + shared)[..., images]
        right = (generator.random(chance.shape) < chance).reshape(at_once * arms, -1)
        sample = Sample([right], [images])
        within = list(combinations(range(arms), 2))
        pairs = [(study * arms + i, study * arms + j) for study in range(at_once) for i, j in within]
        p_values = list(sign_flips(sample, _NUM_FLIPS, number, pairs).values())
        for study in range(at_once):
            of_study = p_values[study * len(within) : (study + 1) * len(within)]
            values = sample.values[study * arms : (study + 1) * arms, 0]
            adjusted = dict(zip(within, holm(of_study), strict=True))
            told_apart = [pair for pair, p in adjusted.items() if p < ALPHA]
            wrong += any((values[i] - values[j]) * (truth[i] - truth[j]) <= 0 for i, j in told_apart)
            ranks = rank_intervals(list(values), adjusted)
            best, worst = _true_ranks(truth)
            held += all(rank.low <= worst[i] and best[i] <= rank.high for i, rank in enumerate(ranks))
    total = -(-num_studies // at_once) * at_once
    return Family(title, total, wrong / total, held / total)


def _true_ranks(truth: Floats) -> tuple[Floats, Floats]:
    """Return the best and the worst true rank of each arm; equal arms may be in any order."""
    return 1 + (truth > truth[:, np.newaxis]).sum(axis=1), (truth >= truth[:, np.newaxis]).sum(axis=1)


def main(num_studies: int) -> None:
    """Print all tables as Markdown."""
    print("| studies | score | difference | sign flip | interval | McNemar | no worse | power |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for scenario in SCENARIOS:
        it = try_scenario(scenario, num_studies)
        shares = (it.score, it.difference, it.sign_flip, it.interval, it.mcnemar, it.no_worse, it.power)
        cells = " | ".join(f"{100 * share:.1f}" for share in shares)
        print(f"| {it.scenario} | {cells} |", flush=True)
    print("\n| six arms, 15 pairs | any wrong | all ranks |")
    print("|---|--:|--:|")
    for title in FAMILIES:
        family = try_family(title, num_studies)
        print(f"| {family.title} | {100 * family.any_wrong:.1f} | {100 * family.all_ranks:.1f} |", flush=True)
    print()
    print_table(num_studies)
    print()
    for line in tables(min(num_studies, 4000)):
        print(line, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
