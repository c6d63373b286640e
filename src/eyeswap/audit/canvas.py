"""Warnings about how images met their canvas: padding, object scale, crops; from sizes that the runs recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from eyeswap.audit.finding import Finding, Records
from eyeswap.runs.record import CanvasUse, RunRecord

MOST_PADDING = 1 / 3  # of the canvas; a 4:3 image in a square leaves a quarter
MOST_CUT = 0.01  # of the image
MOST_RESCALED = 1.25  # between what the weights were trained for and what they see, either way
MOST_SPREAD = 1.5  # between data sets of one arm
MOST_STRETCH = 1.25


def padding(records: Records) -> Iterator[Finding]:
    """Much of the canvas shows no image, so that many tokens say nothing."""
    yield from _warned(
        records,
        "padding",
        lambda use: use.padding,
        MOST_PADDING,
        lambda use: f"{use.padding:.0%} of the canvas is padding",
    )


def crop_loss(records: Records) -> Iterator[Finding]:
    """The canvas cuts a part of the image away, with whatever is asked about it."""
    yield from _warned(
        records,
        "crop-loss",
        lambda use: use.cut,
        MOST_CUT,
        lambda use: f"{use.cut:.1%} of the image lies beyond the canvas",
    )


def stretched(records: Records) -> Iterator[Finding]:
    """The canvas changes the aspect ratio of objects."""
    yield from _warned(
        records,
        "stretch",
        lambda use: use.stretch,
        MOST_STRETCH,
        lambda use: f"images are stretched by {use.stretch:.2f} along one side",
    )


def object_scale(records: Records) -> Iterator[Finding]:
    """Objects appear larger or smaller than the weights know them, or than in training."""
    yield from _warned(
        records,
        "object-scale",
        _rescaled,
        MOST_RESCALED,
        lambda use: f"objects are {_scale_ratio(use):.2f} times as large as these weights know them",
    )
    for name, record in records.items():
        scales = {data: use.scale for data, use in uses_of(record).items()}
        if scales and max(scales.values()) > MOST_SPREAD * min(scales.values()):
            least, most = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
            yield Finding(
                "object-scale",
                "note",
                (name,),
                f"an image pixel is {scales[least]:.2f} canvas pixels in {least} and {scales[most]:.2f} in {most}",
                {"scale": scales},
            )


def uses_of(record: RunRecord) -> Mapping[str, CanvasUse]:
    """Return how each data set lies on a run's canvas; nothing where the run did not record it."""
    return record.observed.canvas


def _rescaled(use: CanvasUse) -> float:
    """Return by which factor, at least 1, objects differ from the size that the weights know."""
    ratio = _scale_ratio(use)
    return max(ratio, 1 / ratio)


def _scale_ratio(use: CanvasUse) -> float:
    """Return how large objects are, in multiples of the size that the weights know; 1 where that is not known."""
    return use.scale / use.own_scale if use.own_scale else 1.0


def _warned(
    records: Records,
    key: str,
    value_of: Callable[[CanvasUse], float],
    limit: float,
    told: Callable[[CanvasUse], str],
) -> Iterator[Finding]:
    """Warn once of every run with a value beyond a limit in any data set; the worst is told, all are evidence."""
    for name, record in records.items():
        uses = uses_of(record)
        values = {data: value_of(use) for data, use in uses.items()}
        over = {data: value for data, value in values.items() if value > limit}
        if over:
            worst = max(over, key=over.__getitem__)
            others = f" (and much in {', '.join(data for data in over if data != worst)})" if len(over) > 1 else ""
            yield Finding(
                key,
                "warning",
                (name,),
                f"{told(uses[worst])} in {worst}{others}",
                {key.replace("-", "_"): values, "scale": {data: use.scale for data, use in uses.items()}},
            )


CHECKS = (padding, object_scale, stretched, crop_loss)
