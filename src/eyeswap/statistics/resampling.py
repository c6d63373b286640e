"""Confidence intervals of weighted averages whose images, and training runs, are random samples.

Answers about one image are correlated, so the unit of resampling is the image, never the question. One resample gives
each image a weight drawn from Exp(1) and takes weighted means: the Bayesian bootstrap (Rubin 1981, The Annals of
Statistics 9:130). An image that appears in several benchmarks has the same weight in all of them.

The bootstrap determines where an interval lies around its value, because scores are not symmetric. Its width comes from
the variances over images and over training runs (`eyeswap.statistics.crossed`), because bootstrap percentiles are too
narrow for few images and meaningless for two or three seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from eyeswap.errors import DataError
from eyeswap.statistics.crossed import Variances
from eyeswap.statistics.tails import Floats, reach, tail

LEVEL = 0.95
NUM_RESAMPLES = 1000
_WEIGHTS_PER_BLOCK = 4_000_000  # bounds the memory of resampling weights
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval.

    Attributes:
        value: the estimate on the data, without resampling.
        low: lower end of the interval.
        high: upper end of the interval.
        standard_error: of the value, over images and, where their variance is known, over training runs.
        num_clusters: number of images.
        degrees_of_freedom: effective number of images (as many equally weighted images would give), minus one.
        num_seeds: number of training seeds.
        seed_error: the part of ``standard_error`` that comes from training runs; 0 where their variance is unknown.
        seed_degrees_of_freedom: of ``seed_error``; infinite where the variance is taken as known.
        caution: factor by which tests inflate the variance of training runs.
    """

    value: float
    low: float
    high: float
    standard_error: float
    num_clusters: int
    degrees_of_freedom: float
    num_seeds: int = 1
    seed_error: float = 0.0
    seed_degrees_of_freedom: float = np.inf
    caution: float = 1.0

    def p_value(self, null: float = 0.0) -> float:
        """Return the two-sided p-value of "the true value is ``null``".

        Where the scores have no spread it is that of the exact sign test: ``m`` images that all favour the same arm
        have ``p = 2 / 2**m``.
        """
        distance = abs(self.value - null)
        if distance == 0.0:
            return 1.0
        if self.standard_error == 0.0:
            return min(1.0, 2.0 * 0.5**self.num_clusters)
        return float(tail(distance, *self._tested))

    def critical_distance(self, alpha: float = 1 - LEVEL) -> float:
        """Return the distance between value and null at which the p-value is ``alpha``."""
        return reach(alpha, *self._tested) if self.standard_error else 0.0

    def half_width(self) -> float:
        """Return half the width of the 95% interval."""
        return reach(1 - LEVEL, *self._variances(1.0), matched=True) if self.standard_error else 0.0

    def times(self, factor: float) -> Interval:
        """Return the interval of ``factor`` times the quantity: 100 for percent, negative to swap the two arms."""
        low, high = sorted((factor * self.low, factor * self.high))
        return replace(
            self,
            value=factor * self.value,
            low=low,
            high=high,
            standard_error=abs(factor) * self.standard_error,
            seed_error=abs(factor) * self.seed_error,
        )

    @property
    def _tested(self) -> tuple[float, float, float, float]:
        return self._variances(self.caution)

    def _variances(self, caution: float) -> tuple[float, float, float, float]:
        """Return the variances over images and over runs, and the degrees of freedom of each."""
        images = max(self.standard_error**2 - self.seed_error**2, 0.0)
        return images, caution * self.seed_error**2, self.degrees_of_freedom, self.seed_degrees_of_freedom


@dataclass(frozen=True)
class _Part:
    """One benchmark: its share of the average, its images, and per image the sum of scores ``[k, S, m]`` and count."""

    share: float
    images: NDArray[np.intp]
    sums: Floats
    counts: Floats


class Sample:
    """Scores of ``k`` arms with ``S`` seeds each on the same examples, grouped by image; ``m`` images in all.

    Args:
        scores: one array per benchmark, ``[k, n_b]`` or ``[k, S, n_b]``.
        clusters: one array ``[n_b]`` per benchmark with the image of each example; equal values are the same image,
            also across benchmarks.
        weights: one weight per benchmark; the numbers of examples ``n_b`` by default.

    Attributes:
        values: ``[k, S]`` weighted averages.
        num_images: ``m``.
        degrees_of_freedom: effective number of images minus one, at least 1.

    Raises:
        DataError: if there are no scores, lengths differ, or a score is not finite.
    """

    def __init__(
        self, scores: Sequence[ArrayLike], clusters: Sequence[ArrayLike], weights: Sequence[float] | None = None
    ) -> None:
        rows = [_with_seeds(np.asarray(values, dtype=np.float64)) for values in scores]
        groups = [np.asarray(images) for images in clusters]
        _check(rows, groups)
        if len({group.dtype.kind for group in groups}) > 1:
            groups = [group.astype(np.str_) for group in groups]
        shares = np.array([len(images) for images in groups] if weights is None else weights, dtype=np.float64)
        shares /= shares.sum()
        names, codes = np.unique(np.concatenate(groups), return_inverse=True)
        codes_by_benchmark = np.split(codes, np.cumsum([len(group) for group in groups])[:-1])
        self._parts = [_part(*benchmark) for benchmark in zip(shares, rows, codes_by_benchmark, strict=True)]
        self.num_images = len(names)
        self.values: Floats = np.sum([part.share * _means(part) for part in self._parts], axis=0)
        weight = np.zeros(self.num_images)  # each image's share of the average
        for part in self._parts:
            weight[part.images] += part.share * part.counts / part.counts.sum()
        effective = (weight**2).sum() ** 2 / (weight**4).sum()
        self.degrees_of_freedom = max(float(effective) - 1.0, 1.0)

    def by_image(self) -> Floats:
        """Return each image's contribution to the averages, ``[k, S, m]``; the sum over images is `values`."""
        return self._over_images([part.sums for part in self._parts])

    def residuals(self) -> Floats:
        """Return each image's contribution beyond that of an average image of its size, ``[k, S, m]``; sum to 0."""
        return self._over_images([part.sums - _means(part)[..., np.newaxis] * part.counts for part in self._parts])

    def draws(self, num_resamples: int, seed: int) -> Floats:
        """Return averages ``[R, k, S]`` over resampled images; seeds are not resampled."""
        blocks = []
        for weights in _image_weights(self.num_images, num_resamples, seed):  # [r, m]
            total = np.zeros((len(weights), *self.values.shape))
            for part in self._parts:
                part_weights = weights[:, part.images]
                sums = np.tensordot(part_weights, part.sums, axes=(1, 2))  # [r, k, S]
                total += part.share * sums / (part_weights @ part.counts)[:, np.newaxis, np.newaxis]
            blocks.append(total)
        return np.concatenate(blocks)

    def _over_images(self, sums: Sequence[Floats]) -> Floats:
        total = np.zeros((*self.values.shape, self.num_images))
        for part, part_sums in zip(self._parts, sums, strict=True):
            total[..., part.images] += part.share / part.counts.sum() * part_sums
        return total


def make_interval(
    value: float, draws: Floats, variances: Variances, place: int, sample: Sample, bounds: tuple[float, float]
) -> Interval:
    """Return the interval of an average over seeds, its width from the variances and its skew from the resamples.

    Args:
        value: the average.
        draws: ``[R]`` resampled averages over seeds.
        variances: variances of several estimates.
        place: index of this estimate among them.
        sample: the scores that were averaged.
        bounds: smallest and largest possible value.
    """
    images, runs = float(variances.images[place]), float(variances.runs[place])
    num_seeds, error = sample.values.shape[1], math.sqrt(images + runs)
    if error < _NO_SPREAD:
        return _without_spread(value, sample.num_images, sample.degrees_of_freedom, num_seeds, bounds)
    centred = Interval(
        value, value, value, error, sample.num_images, sample.degrees_of_freedom, num_seeds,
        math.sqrt(runs), variances.run_freedom, variances.caution,
    )  # fmt: skip
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    spread = math.sqrt(images) * -float(special.stdtrit(sample.degrees_of_freedom, (1 - LEVEL) / 2))
    shift = spread * float((high + low - 2 * value) / (high - low)) if high > low else 0.0
    half = centred.half_width()
    return replace(centred, low=max(value + shift - half, bounds[0]), high=min(value + shift + half, bounds[1]))


def _with_seeds(scores: Floats) -> Floats:
    return scores[:, np.newaxis] if scores.ndim == 2 else scores


def _check(scores: Sequence[Floats], clusters: Sequence[NDArray[Any]]) -> None:
    if not scores:
        raise DataError("no scores to average")
    for rows, images in zip(scores, clusters, strict=True):
        if rows.ndim != 3 or images.ndim != 1 or rows.shape[2] != len(images):
            raise DataError(
                f"scores {rows.shape[2:]} and images {images.shape}: each score needs the image of its example"
            )
        if rows.shape[:2] != scores[0].shape[:2]:
            raise DataError(f"different numbers of arms and seeds: {scores[0].shape[:2]} and {rows.shape[:2]}")
        if len(images) == 0:
            raise DataError("no scores to average")
        if not np.isfinite(rows).all():
            position = int(np.argmin(np.isfinite(rows).all(axis=(0, 1))))
            raise DataError(f"score at position {position} is not a finite number")


def _part(share: float, rows: Floats, codes: NDArray[np.intp]) -> _Part:
    """Group the scores ``[k, S, n]`` of one benchmark by image; ``codes`` ``[n]`` are the images' numbers."""
    used, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    flat = rows.reshape(-1, rows.shape[2])
    sums: Floats = np.stack([np.bincount(inverse, row, len(used)) for row in flat]).astype(np.float64)
    return _Part(float(share), used, sums.reshape(*rows.shape[:2], len(used)), np.asarray(counts, dtype=np.float64))


def _means(part: _Part) -> Floats:
    return np.asarray(part.sums.sum(axis=2) / part.counts.sum())


def _image_weights(num_images: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks ``[r, m]`` of Exp(1) weights, ``num_resamples`` rows in all."""
    generator = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_PER_BLOCK // num_images)
    for start in range(0, num_resamples, block):
        yield generator.standard_exponential((min(block, num_resamples - start), num_images))


def _without_spread(
    value: float, num_images: int, degrees_of_freedom: float, num_seeds: int, bounds: tuple[float, float]
) -> Interval:
    """Return the interval when all images have the same value, so that resampling shows no spread.

    With probability 97.5%, at most a share ``q = 1 - 0.025**(1/m)`` of all images differs (Clopper and Pearson at 0 of
    ``m``); their values may lie anywhere between the bounds.
    """
    unseen = 1.0 - ((1 - LEVEL) / 2) ** (1.0 / num_images)
    low = value + unseen * (bounds[0] - value)
    high = value + unseen * (bounds[1] - value)
    return Interval(value, low, high, 0.0, num_images, degrees_of_freedom, num_seeds)
