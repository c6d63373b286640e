"""Try the verdicts of whole studies on made-up training runs: do equal arms stay undecided, whatever the luck of seeds?

A made-up study asks ``k`` arms, each trained with ``S`` seeds, about the same 100 images: sixteen VQA questions and
eight of localization for each. Images differ in difficulty, arms in what they find hard, runs in skill (the seed s.d.)
and in luck on single images; the image error of a difference with one seed is 1.3 points in VQA and 1.7 in
localization, as in the quickstart. Both averages and the overall one are tested for all pairs of arms together, as a
report does, by the code that reports go through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from eyeswap.statistics.crossed import Pair, Variances, arm_variances, pair_variances
from eyeswap.statistics.differences import holm
from eyeswap.statistics.equivalence import POWER
from eyeswap.statistics.resampling import LEVEL, Sample
from eyeswap.statistics.tails import Floats, matched_tail, reach, tail

ALPHA = 1 - LEVEL
ARMS, SEEDS, SPREADS = (2, 4, 12), (2, 3, 5), (0.0, 0.5, 1.0, 2.0, 4.0)
NUM_IMAGES = 100
_AT_ONCE = 50  # studies
_QUESTIONS = np.array([16, 8])  # an image, in VQA and localization
_IMAGE = 0.1  # s.d. of an image's difficulty, which all arms share
_ARM_IMAGE = np.array([0.058, 0.075])  # s.d. of what an arm finds hard, which all its runs share
_LUCK = np.array([0.068, 0.088])  # s.d. of a run's luck on an image; rounding to whole questions adds to it


@dataclass(frozen=True)
class Cell:
    """One kind of made-up study.

    Attributes:
        num_arms: arms, all equally good.
        num_seeds: training runs of each.
        spread: s.d. of a run's true score, points.
        scatter: factor on ``spread`` in the first arm.
        ahead: by how much the first arm is better in VQA, points.
        known: whether the seed s.d. is stated: with these degrees of freedom, infinite for exactly; None if not.
    """

    num_arms: int
    num_seeds: int
    spread: float
    scatter: float = 1.0
    ahead: float = 0.0
    known: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What many studies showed.

    Attributes:
        decided: share of studies in which any pair is told apart on any average.
        first_pair: share in which the first two arms are told apart in VQA.
        difference: share of intervals of differences in VQA that hold the truth, without the first arm if it scatters.
        scattering: the same of the differences of a first arm that scatters; NaN if it does not.
        score: share of intervals of scores in VQA that hold the truth.
        detectable: median of the detectable difference of the first two arms in VQA, points.
        reference: the same by a crossed random-effects model with the runs' degrees of freedom, points.
        ratio: median of the one over the other.
        naive: share of studies in which a normal test with that model's errors tells any pair apart.
    """

    decided: float
    first_pair: float
    difference: float
    scattering: float
    score: float
    detectable: float
    reference: float
    ratio: float
    naive: float


def try_cell(cell: Cell, num_studies: int = 2000, seed: int = 0, num_detectable: int = 200) -> Outcome:
    """Make up studies of one kind and count how often their verdicts and intervals are right.

    Args:
        cell: the kind.
        num_studies: how many, rounded up to blocks of 50.
        seed: of the random numbers.
        num_detectable: in how many of them the detectable difference is worked out.
    """
    key = [cell.num_arms, cell.num_seeds, round(10 * cell.spread), round(10 * cell.scatter), round(1e4 * cell.ahead)]
    generator = np.random.default_rng([seed, *key])
    found, sizes = [], []
    for number in range(-(-num_studies // _AT_ONCE)):
        samples = block(cell, generator)
        left = max(0, num_detectable - number * _AT_ONCE)
        shares, detectable = _judge_block(cell, samples, generator, left)
        found.append(shares)
        sizes.append(detectable)
    decided, first_pair, difference, scattering, score, naive = np.mean(found, axis=0)
    ours, reference = np.concatenate(sizes, axis=1)
    return Outcome(
        decided, first_pair, difference, scattering, score,
        100 * float(np.median(ours)), 100 * float(np.median(reference)), float(np.median(ours / reference)), naive,
    )  # fmt: skip


def block(cell: Cell, generator: Generator) -> list[Sample]:
    """Draw the answers of a block of studies; return VQA, localization and both, studies side by side as arms."""
    shape = (_AT_ONCE, cell.num_arms, cell.num_seeds, 2, NUM_IMAGES)  # [studies, k, S, groups, m]

    def normal(*axes: int) -> NDArray[np.float32]:
        return generator.standard_normal([size if axis in axes else 1 for axis, size in enumerate(shape)], np.float32)

    scatter = np.ones((cell.num_arms, 1, 1, 1))
    scatter[0] = cell.scatter
    ahead = np.zeros((cell.num_arms, 1, 2, 1))
    ahead[0, 0, 0] = cell.ahead / 100
    skill = 0.5 + ahead + cell.spread / 100 * scatter * normal(0, 1, 2, 3)
    by_group = (1, 1, 1, 2, 1)
    chance = skill + _IMAGE * normal(0, 3, 4) + _ARM_IMAGE.reshape(by_group) * normal(0, 1, 3, 4)
    chance = chance + _LUCK.reshape(by_group) * normal(0, 1, 2, 3, 4)
    questions = _QUESTIONS.reshape(by_group)
    scores = np.clip(np.rint(questions * chance) / questions, 0, 1).reshape(-1, cell.num_seeds, 2, NUM_IMAGES)
    vqa, localization, images = scores[:, :, 0], scores[:, :, 1], np.arange(NUM_IMAGES)
    return [
        Sample([vqa], [images]),
        Sample([localization], [images]),
        Sample([vqa, localization], [images, images], [float(count) for count in _QUESTIONS]),
    ]


def _judge_block(
    cell: Cell, samples: Sequence[Sample], generator: Generator, num_detectable: int
) -> tuple[list[float], Floats]:
    """Return the shares of a block in the order of `Outcome`, and ``[2, n]`` detectable differences and references."""
    pairs = list(combinations(range(cell.num_arms), 2))
    found = [_differences(sample, cell, pairs, generator) for sample in samples]
    p_values = np.concatenate([_p_values(*one) for one in found], axis=1)
    adjusted = np.array([holm(list(row)) for row in p_values])
    distance, variances, freedom = found[0]
    truth = np.array([cell.ahead / 100 * (i == 0) for i, _ in pairs])
    held = matched_tail(np.abs(distance - truth), variances.images, variances.runs, freedom, variances.run_freedom)
    with_first = np.array([i == 0 and cell.scatter != 1 for i, _ in pairs])
    values, residuals = _by_study(samples[0], cell)
    alone = arm_variances(values, residuals)
    error = np.abs(values.mean(axis=2) - 0.5)[:, 1:]  # the first arm may scatter, or be better
    scores = matched_tail(error, alone.images[:, 1:], alone.runs[:, 1:], freedom, alone.run_freedom)
    reference = [balanced_reml(*_by_study(sample, cell)) for sample in samples]
    level = ALPHA / p_values.shape[1]
    z = special.ndtri(1 - level / 2)
    naive = np.any(
        [np.abs(one[0]) > z * error[:, None] for one, error in zip(found, reference, strict=True)], axis=(0, 2)
    )
    ours = [_detectable(variances, study, freedom, level) for study in range(min(num_detectable, _AT_ONCE))]
    t = special.stdtrit(cell.num_arms * max(cell.num_seeds - 1, 1), [1 - level / 2])
    power = special.stdtrit(freedom, POWER)
    shares = [
        (adjusted < ALPHA).any(axis=1).mean(),
        (adjusted[:, 0] < ALPHA).mean(),
        (held[:, ~with_first] >= ALPHA).mean() if not with_first.all() else np.nan,
        (held[:, with_first] >= ALPHA).mean() if with_first.any() else np.nan,
        (scores >= ALPHA).mean(),
        naive.mean(),
    ]
    return [float(share) for share in shares], np.array([ours, (t + power) * reference[0][: len(ours)]])


def _by_study(sample: Sample, cell: Cell) -> tuple[Floats, Floats]:
    """Return averages ``[studies, k, S]`` and residuals ``[studies, k, S, m]``."""
    shape = (_AT_ONCE, cell.num_arms, cell.num_seeds)
    return sample.values.reshape(shape), sample.residuals().reshape(*shape, -1)


def _differences(
    sample: Sample, cell: Cell, pairs: Sequence[Pair], generator: Generator
) -> tuple[Floats, Variances, float]:
    """Return the differences of all pairs ``[studies, pairs]``, their variances, and the freedom of images."""
    values, residuals = _by_study(sample, cell)
    first, second = np.array(pairs).T
    means = values.mean(axis=2)
    variances = pair_variances(values, residuals, pairs)
    if cell.known is not None:
        known = np.full((_AT_ONCE, 1), (cell.spread / 100) ** 2)
        if np.isfinite(cell.known):  # each study has measured it elsewhere
            known *= generator.chisquare(cell.known, known.shape) / cell.known
        variances = replace(variances, runs=2 * known + 0 * variances.images, run_freedom=cell.known)
    return means[:, first] - means[:, second], variances, sample.degrees_of_freedom


def _p_values(distance: Floats, variances: Variances, freedom: float) -> Floats:
    """Return the p-values of the test; 1 where the normal distribution alone says that nothing is decided."""
    images, runs = variances.images, variances.caution * variances.runs
    distance, found = np.abs(distance), np.ones(distance.shape)
    near = 2 * special.ndtr(-distance / np.sqrt(images + runs)) < ALPHA
    found[near] = tail(distance[near], images[near], runs[near], freedom, variances.run_freedom)
    return found


def _detectable(variances: Variances, study: int, freedom: float, level: float) -> float:
    """Return the detectable difference of the first pair, as `eyeswap.statistics.equivalence.minimum_detectable`."""
    images, runs = float(variances.images[study, 0]), float(variances.runs[study, 0])
    critical = reach(level, images, variances.caution * runs, freedom, variances.run_freedom)
    return critical + float(special.stdtrit(freedom, POWER)) * float(np.sqrt(images + runs))


def balanced_reml(values: Floats, residuals: Floats) -> Floats:
    """Return the standard error of a difference of two arms by REML in a crossed random-effects model.

    Arms are fixed; images, arm x image, runs within arms, and the rest are random. The layout is balanced, where REML
    is the analysis of variance with negative components set to zero (Searle, Casella and McCulloch 1992, ch. 4);
    a test holds it against statsmodels.

    Args:
        values: ``[..., k, S]`` averages of each arm and seed.
        residuals: ``[..., k, S, m]`` what each image adds to them.
    """
    num_arms, num_seeds, num_images = residuals.shape[-3:]
    bessel = num_images / (num_images - 1)
    by_arm = residuals.mean(axis=-2)
    apart = by_arm - by_arm.mean(axis=-2, keepdims=True)
    interaction = bessel * (apart**2).sum(axis=(-2, -1)) / (num_arms - 1)
    if num_seeds == 1:
        return np.sqrt(2 * interaction)
    alone = residuals - by_arm[..., np.newaxis, :]
    luck = bessel * (alone**2).sum(axis=(-3, -2, -1)) / (num_arms * (num_seeds - 1))
    runs = np.maximum(values.var(axis=-1, ddof=1).mean(axis=-1), luck)
    return np.sqrt(2 * (np.maximum(interaction - luck / num_seeds, 0.0) + runs / num_seeds))


def tables(num_studies: int) -> Iterator[str]:
    """Yield the lines of the tables in ``docs/statistics.md``."""
    alike, unlike = _grid(num_studies, 1.0), _grid(num_studies, 3.0)
    yield from _table("false alarms", alike, lambda one: _percent(one.decided))
    yield from _table("false alarms, one arm x 3", unlike, lambda one: _percent(one.decided))
    yield from _table("differences held", alike, lambda one: _percent(one.difference))
    yield from _table("scores held", alike, lambda one: _percent(one.score))
    yield from _table("differences held, one arm x 3", unlike, _held_by_others_and_first)
    yield from _table("detectable (ratio)", alike, lambda one: f"{one.detectable:.1f} ({one.ratio:.2f})")
    yield from _table("false alarms of the model, normal", alike, lambda one: _percent(one.naive))
    yield from _found_table(num_studies, alike)
    yield from _one_seed_table(num_studies)


Grid = dict[tuple[int, int], list[Outcome]]


def _grid(num_studies: int, scatter: float) -> Grid:
    """Return the outcomes by arms and seeds, one for each seed s.d."""
    kinds = [(arms, seeds) for arms in ARMS for seeds in SEEDS]
    return {kind: [try_cell(Cell(*kind, spread, scatter), num_studies) for spread in SPREADS] for kind in kinds}


def _table(title: str, grid: Grid, shown: Callable[[Outcome], str]) -> Iterator[str]:
    yield f"| {title}: arms | seeds | {' | '.join(f's.d. {spread:g}' for spread in SPREADS)} |"
    yield "|--:|--:|" + "--:|" * len(SPREADS)
    for (arms, seeds), outcomes in grid.items():
        yield f"| {arms} | {seeds} | {' | '.join(map(shown, outcomes))} |"
    yield ""


def _held_by_others_and_first(one: Outcome) -> str:
    others = "" if np.isnan(one.difference) else f"{_percent(one.difference)}, "
    return others + _percent(one.scattering)


def _found_table(num_studies: int, grid: Grid) -> Iterator[str]:
    """Yield how often a difference of the detectable size is found, at a seed s.d. of 1 point."""
    place = SPREADS.index(1.0)
    yield "| found: arms | " + " | ".join(f"{seeds} seeds" for seeds in SEEDS) + " |"
    yield "|--:|" + "--:|" * len(SEEDS)
    for arms in ARMS:
        cells = []
        for seeds in SEEDS:
            cell = Cell(arms, seeds, 1.0, ahead=grid[arms, seeds][place].detectable)
            cells.append(_percent(try_cell(cell, num_studies, num_detectable=1).first_pair))
        yield f"| {arms} | {' | '.join(cells)} |"
    yield ""


def _one_seed_table(num_studies: int) -> Iterator[str]:
    """Yield how often one-seed studies tell any pair apart, by what is known of the seed s.d.; at 0 nothing can be."""
    yield f"| one seed: arms | seed s.d. known | {' | '.join(f's.d. {spread:g}' for spread in SPREADS[1:])} |"
    yield "|--:|---|" + "--:|" * len(SPREADS[1:])
    for arms in ARMS[:2]:
        for words, known in (("no: told apart in these runs", None), ("stated", np.inf), ("measured, 8 degrees", 8.0)):
            outcomes = [
                try_cell(Cell(arms, 1, spread, known=known), num_studies, num_detectable=1) for spread in SPREADS[1:]
            ]
            yield f"| {arms} | {words} | {' | '.join(_percent(one.decided) for one in outcomes)} |"
    yield ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    for line in tables(int(sys.argv[1]) if len(sys.argv) > 1 else 2000):
        print(line, flush=True)
