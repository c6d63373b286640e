"""The published study's numbers beside ours, where an arm is one of its models."""

from __future__ import annotations

from dataclasses import dataclass

from eyeswap.report.gather import StudyResults


@dataclass(frozen=True)
class PublishedPoint:
    """A model of the published study as its Figure 1 shows it.

    Attributes:
        model: the figure's name of it.
        objective: ``classification``, ``detection`` or ``segmentation``.
        parameters: as drawn there.
        overall: overall score, %.
        status: ``ok``, ``collapsed`` or ``stabilised``.
    """

    model: str
    objective: str
    parameters: float
    overall: float
    status: str


def published_points(results: StudyResults) -> list[PublishedPoint]:
    """Return the published points that belong beside a study's; none if it shares no model with the published one."""
    return []
