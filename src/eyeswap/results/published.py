"""The published study's results as data: what was printed or drawn, with its source and its precision.

Three sources: the table released with the checkpoints (eight models, two decimals, `eyeswap.vlm.released.catalog`); the
overall scores of all thirty points of Figure 1 and the curves of Figure 4, read from the vector files and so good to
about a hundredth of a point and a tenth of a millisecond; and ImageNet accuracies, which the backbone catalog has.
Backbones bear our catalog's names, so that any arm can be set beside what was published of it. Every published run is
one seed, in the wiring that we call as-published.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any, Literal

from eyeswap.backbones import catalog
from eyeswap.vlm.released.catalog import released_models

Status = Literal["ok", "collapsed", "stabilized"]

TABLE_PRECISION = 0.005  # half of the last digit
FIGURE_PRECISION = 0.01  # six scores that are in both sources agree within 0.005
TABLE, FIGURE = "released table", "Figure 1"
_DEFAULT_CONNECTOR = "gelu-mlp"


@dataclass(frozen=True)
class PublishedResult:
    """One published model.

    Attributes:
        model: its name in the figure.
        backbone: our catalog's name.
        objective: what the backbone was trained for.
        parameters_m: millions of parameters as drawn; of detectors and segmentors the whole network, not its backbone.
        tokens: visual tokens as published; None where the interface is not stated.
        vqa: weighted VQA accuracy, percent; None where it was not released.
        localization: weighted localization accuracy, percent; None where it was not released.
        overall: weighted accuracy of all benchmarks, percent.
        precision: how far the scores may be off, points.
        source: released table or Figure 1.
        status: as the figure marks it.
        interfaces: the geometries and connectors, joined by ``+``, that it may have had; empty for the backbone's own
            geometry with the 2-layer connector.
        note: what a reader must know.
        top1: ImageNet-1K accuracy of the backbone, percent.
        top1_source: who published it.
    """

    model: str
    backbone: str
    objective: str
    parameters_m: float
    tokens: int | None
    vqa: float | None
    localization: float | None
    overall: float
    precision: float
    source: str
    status: Status
    interfaces: tuple[str, ...]
    note: str
    top1: float | None
    top1_source: str | None

    @property
    def scores(self) -> dict[str, float]:
        """The averages that are known, by ``vqa``, ``localization`` and ``overall``."""
        known = {"vqa": self.vqa, "localization": self.localization, "overall": self.overall}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def collapse(self) -> tuple[Literal["cannot tell"], str]:
        """Our verdict on its localization: none can be reached from what was released, and why."""
        if self.localization is None:
            most = self.overall * _TOTAL / _VQA
            why = f"no localization score was released; from the overall score, VQA is at most {most:.1f}"
        else:
            why = "neither the score of the best constant box nor single answers were released"
        return "cannot tell", why

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        verdict, why = self.collapse
        return {**asdict(self), "collapse": {"verdict": verdict, "why": why}}


@dataclass(frozen=True)
class PublishedProfile:
    """One point of Figure 4: batch 1 on an H200, a square image; read from the figure.

    Attributes:
        model: its name in the figure.
        side_px: side of the image.
        host_vision_s: wall time of the vision backbone, launch included.
        gpu_vision_s: time of the vision backbone on the GPU.
        host_llm_s: wall time of the LLM's prefill.
        gpu_llm_s: time of the LLM's prefill on the GPU.
        end_to_end_s: vision, connector and prefill.
        peak_gb: most memory.
    """

    model: str
    side_px: int
    host_vision_s: float
    gpu_vision_s: float
    host_llm_s: float
    gpu_llm_s: float
    end_to_end_s: float
    peak_gb: float


_VQA, _TOTAL = 288_750, 333_580  # examples of the full sets: overall = (288,750 VQA + 44,830 localization) / 333,580


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    """Return all published models in the order of the figure: thirty points, eight of them with group scores."""
    released = {catalog.entry(one.backbone).name: one.scores for one in released_models().values()}
    found = []
    for row in _rows("figure-1.csv"):
        entry = catalog.entry(row["backbone"])
        drawn = PublishedResult(
            model=row["model"],
            backbone=entry.name,
            objective=row["objective"],
            parameters_m=float(row["parameters_m"]),
            tokens=int(row["tokens"]) if row["tokens"] else None,
            vqa=None,
            localization=None,
            overall=float(row["overall"]),
            precision=FIGURE_PRECISION,
            source=FIGURE,
            status=_status(row["status"]),
            interfaces=tuple(row["interfaces"].split("|")) if row["interfaces"] else (),
            note=row["note"],
            top1=entry.top1,
            top1_source=entry.top1_source,
        )
        if drawn.status == "ok" and (scores := released.get(entry.name)) is not None:
            drawn = replace(drawn, **scores.model_dump(), precision=TABLE_PRECISION, source=TABLE)
        found.append(drawn)
    return tuple(found)


def published_for(
    backbone: str, connector: str | None = None, geometry: str | None = None, tap: str | None = None
) -> PublishedResult | None:
    """Return what was published of an arm; None if nothing was.

    The wiring is not looked at: a controlled arm and its as-published twin stand beside the same result.

    Args:
        backbone: catalog name or alias.
        connector: its connector; None for the 2-layer one.
        geometry: as a study writes it; None for the backbone's own.
        tap: another tap than the backbone's own: nothing was published of any.
    """
    entry = catalog.find(backbone)
    if entry is None:
        return None
    if tap is not None and entry.with_changes(tap=tap).tap != entry.tap:
        return None
    own = (entry.geometry, entry.wired("as-published").geometry)
    is_own = geometry is None or entry.geometry.override(geometry) in own
    parts = ["" if is_own else str(geometry), "" if connector in (None, _DEFAULT_CONNECTOR) else str(connector)]
    interface = "+".join(filter(None, parts))
    for one in published_results():
        if one.backbone == entry.name and (interface in one.interfaces or not (interface or one.interfaces)):
            return one
    return None


def published_for_arm(arm: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> PublishedResult | None:
    """Return what was published of an arm as ``study.json`` has it; the recipe's connector counts where it has none."""
    connector = arm.get("connector") or (recipe or {}).get("connector")
    return published_for(str(arm["backbone"]), connector, arm.get("geometry"), arm.get("tap"))


def within(interval: tuple[float, float], value: float, precision: float = 0.0) -> bool:
    """Return whether a published value, which may be off by its precision, can lie in an interval of ours."""
    return interval[0] - precision <= value <= interval[1] + precision


@functools.cache
def published_profile() -> tuple[PublishedProfile, ...]:
    """Return the points of Figure 4. ViTDet has none from 3,072 pixels on: it failed there."""
    rows = _rows("figure-4.csv")
    return tuple(
        PublishedProfile(
            row["model"], int(row["side_px"]), *(float(row[name]) for name in list(row) if name.endswith(("_s", "_gb")))
        )
        for row in rows
    )


def _rows(name: str) -> list[dict[str, str]]:
    text = (resources.files("eyeswap.results") / "published_results" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _status(text: str) -> Status:
    statuses: dict[str, Status] = {"ok": "ok", "collapsed": "collapsed", "stabilized": "stabilized"}
    return statuses[text]
