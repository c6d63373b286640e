"""Findings about the placement of images on the canvas: padding, cropping, stretching and the scale of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from eyeswap.audit.finding import Finding, Records
from eyeswap.runs.record import CanvasUse, RunRecord

MAX_PADDING = 1 / 3  # of the canvas; a 4:3 image in a square leaves a quarter
MAX_CUT = 0.01  # of the image
MAX_RESCALED = 1.25  # ratio between the scales in pretraining and here, in either direction
MAX_SPREAD = 1.5  # ratio between the scales of one arm's data sets
MAX_STRETCH = 1.25


def padding(records: Records) -> Iterator[Finding]:
    """Find runs whose canvas is largely padding, so that many visual tokens carry no information."""
    yield from _above_limit(
        records,
        "padding",
        lambda use: use.padding,
        MAX_PADDING,
        lambda use: f"{use.padding:.0%} of the canvas is padding",
    )


def crop_loss(records: Records) -> Iterator[Finding]:
    """Find runs whose canvas crops images, with objects that questions may be about."""
    yield from _above_limit(
        records,
        "crop-loss",
        lambda use: use.cut,
        MAX_CUT,
        lambda use: f"{use.cut:.1%} of the image is outside the canvas",
    )


def stretched(records: Records) -> Iterator[Finding]:
    """Find runs whose canvas changes the aspect ratio of objects."""
    yield from _above_limit(
        records,
        "stretch",
        lambda use: use.stretch,
        MAX_STRETCH,
        lambda use: f"images are stretched {use.stretch:.2f}x along one axis",
    )


def object_scale(records: Records) -> Iterator[Finding]:
    """Find runs in which objects appear at another scale than in pretraining, or than in the run's other data sets."""
    yield from _above_limit(
        records,
        "object-scale",
        _rescaled,
        MAX_RESCALED,
        lambda use: f"objects appear at {_scale_ratio(use):.2f}x the scale that the pretrained weights saw",
    )
    for name, record in records.items():
        scales = {data: use.scale for data, use in uses_of(record).items()}
        if scales and max(scales.values()) > MAX_SPREAD * min(scales.values()):
            smallest, largest = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
            yield Finding(
                "object-scale",
                "note",
                (name,),
                f"an image pixel is {scales[smallest]:.2f} canvas pixels in {smallest} and {scales[largest]:.2f} in "
                f"{largest}",
                {"scale": scales},
            )


def uses_of(record: RunRecord) -> Mapping[str, CanvasUse]:
    """Return the placement of each data set on a run's canvas; empty if the run did not record it."""
    return record.observed.canvas


def _rescaled(use: CanvasUse) -> float:
    """Return the factor, at least 1, by which the scale of objects differs from that in pretraining."""
    ratio = _scale_ratio(use)
    return max(ratio, 1 / ratio)


def _scale_ratio(use: CanvasUse) -> float:
    """Return the scale of objects relative to that in pretraining; 1 if the latter is unknown."""
    return use.scale / use.own_scale if use.own_scale else 1.0


def _above_limit(
    records: Records,
    key: str,
    value_of: Callable[[CanvasUse], float],
    limit: float,
    describe: Callable[[CanvasUse], str],
) -> Iterator[Finding]:
    """Yield one warning per run with a value above a limit; it describes the worst data set and names the others."""
    for name, record in records.items():
        uses = uses_of(record)
        values = {data: value_of(use) for data, use in uses.items()}
        over = {data: value for data, value in values.items() if value > limit}
        if over:
            worst = max(over, key=over.__getitem__)
            others = f" (also affected: {', '.join(data for data in over if data != worst)})" if len(over) > 1 else ""
            yield Finding(
                key,
                "warning",
                (name,),
                f"in {worst}, {describe(uses[worst])}{others}",
                {key.replace("-", "_"): values, "scale": {data: use.scale for data, use in uses.items()}},
            )


CHECKS = (padding, object_scale, stretched, crop_loss)
