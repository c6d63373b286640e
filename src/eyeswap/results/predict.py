"""What predicts a VLM's scores? Numbers that are known of an encoder before any VLM is trained, tried on many encoders.

Encoders are the random sample: the number of images hardly matters. A rank correlation says how well a number orders
the encoders at hand; the error of leaving a family out says what it tells about a family that nobody has trained yet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from eyeswap.files import write_json, write_text
from eyeswap.probing.probe import VISUAL
from eyeswap.results.encoders import Encoder, Found
from eyeswap.statistics.correlation import Correlation, correlate
from eyeswap.statistics.differences import holm
from eyeswap.statistics.resampling import LEVEL

Floats = NDArray[np.float64]

ACCURACY = "top-1 accuracy"
_NUM_RESAMPLES = 2_000
_FEWEST = 4  # encoders, below which nothing is computed


@dataclass(frozen=True)
class Lead:
    """By how much a predictor's rank correlation is larger than that of accuracy, over the encoders that have both.

    Attributes:
        n: number of encoders.
        value: the difference of absolute correlations.
        low: lower end of the 95% interval over encoders (percentile bootstrap).
        high: upper end.
    """

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """How well one number predicts one average.

    Attributes:
        predictor: what is known beforehand.
        average: ``vqa``, ``localization`` or ``overall``.
        correlation: Spearman's, over encoders.
        p: of the correlation, adjusted for all predictors of this average (Holm).
        error: root mean squared error, in points, of a line that was fitted without the family that it predicts; None
            with fewer than two families or three encoders to fit.
        plain_error: the same of the other families' mean score, on the same encoders.
        lead: over accuracy; None for accuracy itself, and where too few encoders have both.
    """

    predictor: str
    average: str
    correlation: Correlation
    p: float | None
    error: float | None
    plain_error: float | None
    lead: Lead | None

    @property
    def decided(self) -> bool:
        """Whether it is told apart from none at all."""
        return self.p is not None and self.p < 1 - LEVEL

    @property
    def generalizes(self) -> bool:
        """Whether it predicts families left out better than the mean of the others does."""
        return self.error is not None and self.plain_error is not None and self.error < self.plain_error

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"decided": self.decided, "generalizes": self.generalizes}


def known_before(encoder: Encoder, probe: Mapping[str, Any]) -> dict[str, float]:
    """Return what is known of an encoder before a VLM is trained on it, by name.

    Args:
        encoder: the encoder.
        probe: its probe, as written to ``probe.json``.
    """
    rows, columns = encoder.record["token_grid"]
    values: dict[str, float | None] = {
        ACCURACY: encoder.accuracy,
        "parameters": float(encoder.record["num_parameters"]),
        "tokens": float(rows * columns),
    }
    for reading in probe["readings"]:
        if reading["site"] == VISUAL:
            values[f"{reading['task']}, {reading['readout']} readout"] = reading["score"]
    values |= {name.replace("_", " "): value for name, value in probe["statistics"][VISUAL].items()}
    values["correspondence"] = 100 * probe["correspondence"]
    return {name: value for name, value in values.items() if value is not None}


def predict(encoders: Sequence[Encoder], known: Sequence[Mapping[str, float]], seed: int = 0) -> list[Prediction]:
    """Try every number on every average; the best rank correlation of an average comes first.

    Args:
        encoders: with their scores.
        known: what is known of each beforehand.
        seed: of the permutations and resamples.
    """
    names = list(dict.fromkeys(name for each in known for name in each))
    predictions: list[Prediction] = []
    for average in dict.fromkeys(average for encoder in encoders for average in encoder.scores):
        having = [row for row, encoder in enumerate(encoders) if average in encoder.scores]
        scores = {row: encoders[row].scores[average] for row in having}
        found = [_try(name, average, encoders, known, scores, seed) for name in names]
        tested = [one.correlation.p for one in found if one.correlation.p is not None]
        adjusted = iter(holm(tested))
        found = [replace(one, p=None if one.correlation.p is None else next(adjusted)) for one in found]
        predictions += sorted(found, key=lambda one: -abs(one.correlation.value or 0.0))
    return predictions


def _try(
    name: str, average: str, encoders: Sequence[Encoder], known: Sequence[Mapping[str, float]],
    scores: Mapping[int, float], seed: int,
) -> Prediction:  # fmt: skip
    rows = [row for row in scores if name in known[row]]
    x, y = np.array([known[row][name] for row in rows]), np.array([scores[row] for row in rows])
    families = [encoders[row].family for row in rows]
    both = [row for row in rows if ACCURACY in known[row]]
    lead = None
    if name != ACCURACY and len(both) >= _FEWEST:
        ours, accuracy = (np.array([known[row][each] for row in both]) for each in (name, ACCURACY))
        lead = _lead(ours, accuracy, np.array([scores[row] for row in both]), seed)
    error, plain_error = family_errors(x, y, families)
    return Prediction(name, average, correlate(x.tolist(), y.tolist(), seed=seed), None, error, plain_error, lead)


def family_errors(x: Floats, y: Floats, families: Sequence[str]) -> tuple[float | None, float | None]:
    """Return root mean squared errors of leaving one family out: of a line in ``x``, and of the others' mean.

    Args:
        x: the predictor, ``[n]``.
        y: the score, ``[n]``.
        families: of each encoder.

    Returns:
        Both errors, in points of ``y``; None with fewer than two families, or fewer than three encoders to fit.
    """
    names = np.array(families)
    line, mean = [], []
    for family in dict.fromkeys(families):
        out = names == family
        if (~out).sum() < 3:
            return None, None
        others = x[~out] - x[~out].mean()
        spread = float((others**2).sum())
        slope = float((others * y[~out]).sum()) / spread if spread > 0 else 0.0
        line += (y[out] - y[~out].mean() - slope * (x[out] - x[~out].mean())).tolist()
        mean += (y[out] - y[~out].mean()).tolist()
    if len(set(families)) < 2:
        return None, None
    return _root_mean_square(line), _root_mean_square(mean)


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _lead(ours: Floats, accuracy: Floats, scores: Floats, seed: int) -> Lead | None:
    """Compare two predictors on resampled encoders; None if one of the three is constant."""
    if min(map(np.ptp, (ours, accuracy, scores))) == 0:
        return None
    n = len(scores)
    drawn = np.random.default_rng(seed).integers(n, size=(_NUM_RESAMPLES, n))
    differences = _differences(ours[drawn], accuracy[drawn], scores[drawn])
    low, high = np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = _differences(ours[None], accuracy[None], scores[None])[0]
    return Lead(n, float(value), float(low), float(high))


def _differences(ours: Floats, accuracy: Floats, scores: Floats) -> Floats:
    """Return by how much the first correlates better with the scores than the second, row by row: ``[r, n]`` each."""
    first, second = (_rank_correlations(each, scores) for each in (ours, accuracy))
    return np.abs(first) - np.abs(second)


def _rank_correlations(x: Floats, y: Floats) -> Floats:
    """Return Spearman's correlation of each row ``[r]``; not a number where one of the two is constant."""
    first, second = (rankdata(each, axis=1) - (each.shape[1] + 1) / 2 for each in (x, y))
    sizes = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    correlations: Floats = (first * second).sum(1) / np.where(sizes > 0, sizes, np.nan)
    return correlations


def write_predictions(
    found: Found, known: Sequence[Mapping[str, float]], predictions: Sequence[Prediction], settings: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write ``predictors.json`` and ``encoders.csv``; return what the former holds.

    Args:
        found: the encoders, and what was left out.
        known: what is known of each encoder beforehand.
        predictions: of `predict`.
        settings: of the probes.
        folder: where to write.
    """
    rows = [
        {"encoder": encoder.name, "family": encoder.family, "runs": encoder.num_runs, **encoder.scores, **values}
        for encoder, values in zip(found.encoders, known, strict=True)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "encoders.csv", text.getvalue())
    content = {
        "settings": dict(settings), "encoders": rows, "left_out": found.left_out,
        "predictions": [one.as_json() for one in predictions],
    }  # fmt: skip
    write_json(folder / "predictors.json", content)
    return content
