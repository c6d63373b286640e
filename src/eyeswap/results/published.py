"""Published numbers as data: the results of the published study, and the accuracies that backbones' authors report.

There are three sources: the table released with the checkpoints (eight models, two decimals,
`eyeswap.vlm.released.catalog`); the overall scores of the thirty points of Figure 1 and the curves of Figure 4, read
from the vector graphics and so accurate to about 0.01 points and 0.1 ms; and the accuracies in the backbone catalog and
on the cards of the packaged checkpoints. Backbones have the names of our catalog, so that any arm can be compared with
what was published about it. Every published run has one seed and the wiring that we call as-published.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any, Literal

from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.files import parse_json
from eyeswap.runs.record import RunRecord
from eyeswap.vlm.released.catalog import released_models

Status = Literal["ok", "collapsed", "stabilized"]

IMAGENET = "ImageNet-1K top-1 accuracy"
DIGITS = "top-1 accuracy of the pretraining on digits"
FAR_BELOW = 10.0  # points below the best arm from which accuracy is a confound of any comparison
TABLE_PRECISION = 0.005  # half of the last digit
FIGURE_PRECISION = 0.01  # the six scores that both sources have agree within 0.005
TABLE, FIGURE = "released table", "Figure 1"
_DEFAULT_CONNECTOR = "gelu-mlp"


@dataclass(frozen=True)
class PublishedResult:
    """One published model.

    Attributes:
        model: name in the figure.
        backbone: name in our catalog.
        objective: pretraining objective of the backbone.
        parameters_m: millions of parameters as drawn; for detectors and segmentors the whole network, not its backbone.
        tokens: number of visual tokens as published; None where the interface is not stated.
        vqa: weighted VQA accuracy, percent; None if it was not released.
        localization: weighted localization accuracy, percent; None if it was not released.
        overall: weighted accuracy over all benchmarks, percent.
        precision: largest error of the scores, points.
        source: released table or Figure 1.
        status: as the figure marks it.
        interfaces: the geometries and connectors, joined by ``+``, that it may have had; empty for the backbone's own
            geometry with the 2-layer connector.
        note: caveats for the reader.
        top1: ImageNet-1K accuracy of the backbone, percent.
        top1_source: who published that accuracy.
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
        """The known averages, by ``vqa``, ``localization`` and ``overall``."""
        known = {"vqa": self.vqa, "localization": self.localization, "overall": self.overall}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def collapse(self) -> tuple[Literal["cannot tell"], str]:
        """Our verdict on its localization, which is always open, and why the released numbers do not settle it."""
        if self.localization is None:
            most = self.overall * _TOTAL / _VQA
            why = f"no localization score was released; the overall score implies VQA of at most {most:.1f}"
        else:
            why = "neither the score of the best constant box nor individual answers were released"
        return "cannot tell", why

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        verdict, why = self.collapse
        return {**asdict(self), "collapse": {"verdict": verdict, "why": why}}


@dataclass(frozen=True)
class PublishedProfile:
    """One point of Figure 4, read from the figure: batch size 1 on an H200, a square image.

    Attributes:
        model: name in the figure.
        side_px: side of the image, pixels.
        host_vision_s: wall time of the vision backbone including kernel launches, seconds.
        gpu_vision_s: GPU time of the vision backbone, seconds.
        host_llm_s: wall time of the LLM's prefill, seconds.
        gpu_llm_s: GPU time of the LLM's prefill, seconds.
        end_to_end_s: time of vision, connector and prefill together, seconds.
        peak_gb: peak memory, GB.
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
    """Return the thirty published models in the order of the figure; eight of them have group scores."""
    released = {catalog.entry(model.backbone).name: model.scores for model in released_models().values()}
    results = []
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
        results.append(drawn)
    return tuple(results)


def published_for(
    backbone: str, connector: str | None = None, geometry: str | None = None, tap: str | None = None
) -> PublishedResult | None:
    """Return the published result of an arm; None if there is none.

    Wiring is ignored: a controlled arm and its as-published counterpart have the same published result.

    Args:
        backbone: catalog name or alias.
        connector: the arm's connector; None for the 2-layer one.
        geometry: in the notation of study files; None for the backbone's default.
        tap: the arm's tap; nothing was published for taps other than the backbone's default.
    """
    entry = catalog.find(backbone)
    if entry is None:
        return None
    if tap is not None and entry.with_changes(tap=tap).tap != entry.tap:
        return None
    defaults = (entry.geometry, entry.wired("as-published").geometry)
    is_default = geometry is None or entry.geometry.override(geometry) in defaults
    parts = ["" if is_default else str(geometry), "" if connector in (None, _DEFAULT_CONNECTOR) else str(connector)]
    interface = "+".join(filter(None, parts))
    for result in published_results():
        if result.backbone == entry.name and (interface in result.interfaces or not (interface or result.interfaces)):
            return result
    return None


def published_for_arm(arm: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> PublishedResult | None:
    """Return the published result of an arm of ``study.json``; the recipe's connector applies where it has none."""
    connector = arm.get("connector") or (recipe or {}).get("connector")
    return published_for(str(arm["backbone"]), connector, arm.get("geometry"), arm.get("tap"))


def within(interval: tuple[float, float], value: float, precision: float = 0.0) -> bool:
    """Return whether a published value lies in one of our intervals, given the precision of the published value."""
    return interval[0] - precision <= value <= interval[1] + precision


def official_entry(record: RunRecord) -> BackboneEntry | None:
    """Return the catalog entry whose weights a run used; None outside the catalog.

    None too where the arm names a file of weights: it may be a copy of the official one, but nothing tells.
    """
    known = record.backbone.name is not None and record.backbone_file is None
    return catalog.find(str(record.backbone.name)) if known else None


def known_accuracy(record: RunRecord) -> tuple[str, float] | None:
    """Return which accuracy is known of the weights that a run used, and its value in percent; None if none is."""
    entry = official_entry(record)
    if entry is not None:
        return published_accuracy(entry.name)
    return None if record.backbone.top1 is None else (DIGITS, record.backbone.top1)


def published_accuracy(backbone: str) -> tuple[str, float] | None:
    """Return which accuracy a backbone's authors report and its value in percent; None if they report none."""
    entry = catalog.find(backbone)
    if entry is None:
        return None
    if entry.top1 is not None:
        return IMAGENET, entry.top1
    return _accuracy_on_card(entry) if entry.weights.packaged else None


@functools.cache
def published_profile() -> tuple[PublishedProfile, ...]:
    """Return the points of Figure 4; ViTDet has none from 3,072 pixels on, where it failed."""
    rows = _rows("figure-4.csv")
    return tuple(
        PublishedProfile(
            row["model"], int(row["side_px"]), *(float(row[name]) for name in list(row) if name.endswith(("_s", "_gb")))
        )
        for row in rows
    )


def _accuracy_on_card(entry: BackboneEntry) -> tuple[str, float] | None:
    card = resources.files("eyeswap") / "checkpoints" / f"{entry.name}.card.json"
    if not card.is_file():
        return None
    return DIGITS, 100 * float(parse_json(card.read_text(encoding="utf-8"))["metrics"]["top1_accuracy"])


def _rows(name: str) -> list[dict[str, str]]:
    text = (resources.files("eyeswap.results") / "published_results" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _status(text: str) -> Status:
    statuses: dict[str, Status] = {"ok": "ok", "collapsed": "collapsed", "stabilized": "stabilized"}
    return statuses[text]
