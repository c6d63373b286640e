"""Intervals of weighted averages when images, and training runs, are drawn by chance.

Questions about one image rise and fall together, so what is resampled is the image, never the question. One resample
gives each image a weight drawn from Exp(1) and takes weighted means: the Bayesian bootstrap (Rubin 1981, The Annals of
Statistics 9:130). An image that serves several benchmarks has one weight in all of them.

The bootstrap says where an interval lies around its value, because scores are not symmetric; how wide it is say the
variances over images and over training runs (`eyeswap.statistics.crossed`), because the percentiles of a resampling
alone are too narrow for few images, and those of two or three seeds say nothing.
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
_CHUNK = 4_000_000  # weights held in memory at once
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval.

    Attributes:
        value: the estimate on the data as they are.
        low: lower end of the interval.
        high: upper end of the interval.
        standard_error: of the value, over images and, where something is known of them, over training runs.
        num_clusters: number of images it rests on.
        degrees_of_freedom: images that would carry as much if all had equal weight, less one.
        num_seeds: number of training seeds it rests on.
        seed_error: the part of ``standard_error`` that comes from training runs; 0 where nothing is known of them.
        seed_degrees_of_freedom: of ``seed_error``; infinite where it was stated and not estimated.
        caution: factor by which tests enlarge the variance of training runs.
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

        Without any spread the exact sign test takes over: ``m`` images that all say the same sign have
        ``p = 2 / 2**m``.
        """
        distance = abs(self.value - null)
        if distance == 0.0:
            return 1.0
        if self.standard_error == 0.0:
            return min(1.0, 2.0 * 0.5**self.num_clusters)
        return float(tail(distance, *self._tested))

    def critical_distance(self, alpha: float = 1 - LEVEL) -> float:
        """Return how far the value has to lie from a null for a p-value of ``alpha``."""
        return reach(alpha, *self._tested) if self.standard_error else 0.0

    def half_width(self) -> float:
        """Return half the width of the 95% interval."""
        return reach(1 - LEVEL, *self._variances(1.0), matched=True) if self.standard_error else 0.0

    @property
    def _tested(self) -> tuple[float, float, float, float]:
        return self._variances(self.caution)

    def _variances(self, caution: float) -> tuple[float, float, float, float]:
        """Return the variances over images and over runs, and the degrees of freedom of both."""
        images = max(self.standard_error**2 - self.seed_error**2, 0.0)
        return images, caution * self.seed_error**2, self.degrees_of_freedom, self.seed_degrees_of_freedom


@dataclass(frozen=True)
class _Part:
    """One benchmark: its share of the average, the images it uses, and per image sums ``[k, S, m]`` and counts."""

    share: float
    images: NDArray[np.intp]
    sums: Floats
    counts: Floats


class Sample:
    """Scores of ``k`` arms with ``S`` seeds each on the same examples, gathered by image; ``m`` images in all.

    Args:
        scores: one array a benchmark, ``[k, n_b]`` or ``[k, S, n_b]``.
        clusters: one array ``[n_b]`` a benchmark; equal values in two benchmarks are the same image.
        weights: one weight a benchmark; the sample counts ``n_b`` when not given.

    Attributes:
        values: ``[k, S]`` weighted averages.
        num_images: ``m``.
        degrees_of_freedom: effective number of images, less one, at least 1.

    Raises:
        DataError: if there are no scores, or lengths differ, or a score is not finite.
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
        of_benchmark = np.split(codes, np.cumsum([len(group) for group in groups])[:-1])
        self._parts = [_part(*one) for one in zip(shares, rows, of_benchmark, strict=True)]
        self.num_images = len(names)
        self.values: Floats = np.sum([part.share * _means(part) for part in self._parts], axis=0)
        weight = np.zeros(self.num_images)  # each image's part in the average
        for part in self._parts:
            weight[part.images] += part.share * part.counts / part.counts.sum()
        effective = (weight**2).sum() ** 2 / (weight**4).sum()
        self.degrees_of_freedom = max(float(effective) - 1.0, 1.0)

    def by_image(self) -> Floats:
        """Return what each image adds to the averages, ``[k, S, m]``; the sum over images is `values`."""
        return self._over_images([part.sums for part in self._parts])

    def residuals(self) -> Floats:
        """Return what each image adds beyond an average image of its size, ``[k, S, m]``; sums to zero over images."""
        return self._over_images([part.sums - _means(part)[..., np.newaxis] * part.counts for part in self._parts])

    def draws(self, num_resamples: int, seed: int) -> Floats:
        """Return resampled averages ``[R, k, S]``: images resampled, seeds not."""
        blocks = []
        for weights in _image_weights(self.num_images, num_resamples, seed):  # [r, m]
            total = np.zeros((len(weights), *self.values.shape))
            for part in self._parts:
                own = weights[:, part.images]
                sums = np.tensordot(own, part.sums, axes=(1, 2))  # [r, k, S]
                total += part.share * sums / (own @ part.counts)[:, np.newaxis, np.newaxis]
            blocks.append(total)
        return np.concatenate(blocks)

    def _over_images(self, sums: Sequence[Floats]) -> Floats:
        total = np.zeros((*self.values.shape, self.num_images))
        for part, own in zip(self._parts, sums, strict=True):
            total[..., part.images] += part.share / part.counts.sum() * own
        return total


def make_interval(
    value: float, draws: Floats, variances: Variances, place: int, sample: Sample, bounds: tuple[float, float]
) -> Interval:
    """Return the interval of an average over seeds: as wide as its variances say, shifted as the resamples lie.

    Args:
        value: the average.
        draws: ``[R]``, resampled averages over seeds.
        variances: of several estimates.
        place: which of them it is.
        sample: where it comes from.
        bounds: least and greatest value that is possible.
    """
    images, runs = float(variances.images[place]), float(variances.runs[place])
    num_seeds, error = sample.values.shape[1], math.sqrt(images + runs)
    if error < _NO_SPREAD:
        return _without_spread(value, sample.num_images, sample.degrees_of_freedom, num_seeds, bounds)
    whole = Interval(
        value, value, value, error, sample.num_images, sample.degrees_of_freedom, num_seeds,
        math.sqrt(runs), variances.run_freedom, variances.caution,
    )  # fmt: skip
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    spread = math.sqrt(images) * -float(special.stdtrit(sample.degrees_of_freedom, (1 - LEVEL) / 2))
    shift = spread * float((high + low - 2 * value) / (high - low)) if high > low else 0.0
    half = whole.half_width()
    return replace(whole, low=max(value + shift - half, bounds[0]), high=min(value + shift + half, bounds[1]))


def _with_seeds(scores: Floats) -> Floats:
    return scores[:, np.newaxis] if scores.ndim == 2 else scores


def _check(scores: Sequence[Floats], clusters: Sequence[NDArray[Any]]) -> None:
    if not scores:
        raise DataError("no scores to average")
    for rows, images in zip(scores, clusters, strict=True):
        if rows.ndim != 3 or images.ndim != 1 or rows.shape[2] != len(images):
            raise DataError(f"scores {rows.shape[2:]} and clusters {images.shape} must be lists of one length")
        if rows.shape[:2] != scores[0].shape[:2]:
            raise DataError(f"scores of {rows.shape[:2]} arms and seeds stand beside some of {scores[0].shape[:2]}")
        if len(images) == 0:
            raise DataError("no scores to average")
        if not np.isfinite(rows).all():
            raise DataError(f"score number {int(np.argmin(np.isfinite(rows).all(axis=(0, 1))))} is not a finite number")


def _part(share: float, rows: Floats, codes: NDArray[np.intp]) -> _Part:
    """Gather the scores ``[k, S, n]`` of one benchmark by image; ``codes`` ``[n]`` number the images."""
    used, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    flat = rows.reshape(-1, rows.shape[2])
    sums: Floats = np.stack([np.bincount(inverse, row, len(used)) for row in flat]).astype(np.float64)
    return _Part(float(share), used, sums.reshape(*rows.shape[:2], len(used)), np.asarray(counts, dtype=np.float64))


def _means(part: _Part) -> Floats:
    return np.asarray(part.sums.sum(axis=2) / part.counts.sum())


def _image_weights(num_images: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks ``[r, m]`` of Exp(1) weights, ``num_resamples`` rows in all."""
    generator = np.random.default_rng(seed)
    block = max(1, _CHUNK // num_images)
    for start in range(0, num_resamples, block):
        yield generator.standard_exponential((min(block, num_resamples - start), num_images))


def _without_spread(
    value: float, num_images: int, degrees_of_freedom: float, num_seeds: int, bounds: tuple[float, float]
) -> Interval:
    """Return the interval when all images say the same and resampling sees no spread.

    With probability 97.5% at most a share ``q = 1 - 0.025**(1/m)`` of all images behaves otherwise (Clopper
    and Pearson at 0 of ``m``); that share may sit anywhere between the bounds.
    """
    unseen = 1.0 - ((1 - LEVEL) / 2) ** (1.0 / num_images)
    low = value + unseen * (bounds[0] - value)
    high = value + unseen * (bounds[1] - value)
    return Interval(value, low, high, 0.0, num_images, degrees_of_freedom, num_seeds)
