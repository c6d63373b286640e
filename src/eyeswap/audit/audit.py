"""Prove from run folders what was held fixed, and find every difference that the study did not declare.

The audit believes digests, not intentions. Every fact about a run has factors that may decide it. A difference is
*declared* if the factors that ``may_differ`` names explain it: runs with equal factors agree. Any other difference is
*undeclared*. Findings are facts that weaken a comparison although they are equal or declared, and records that do
not fit their files; ``docs/audit.md`` explains each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eyeswap.audit import backbones as audit_backbones
from eyeswap.audit import canvas as audit_canvas
from eyeswap.audit import design as audit_design
from eyeswap.audit.answers import check_answers, check_errors
from eyeswap.audit.finding import Finding, Records, merged
from eyeswap.audit.records import check_files
from eyeswap.audit.training_log import check_training_log
from eyeswap.errors import DataError
from eyeswap.files import canonical_json
from eyeswap.results.run import Run, named
from eyeswap.runs.record import CanvasUse, RunRecord

__all__ = ["AuditReport", "Fact", "Finding", "audit"]

CHECKS = (*audit_backbones.CHECKS, *audit_canvas.CHECKS, *audit_design.CHECKS)

# Each factor, as a run's record has it. Seed and token width are always allowed to explain a difference: seeds are
# drawn on purpose, and a width is a fact of its own.
FACTORS: dict[str, Callable[[RunRecord], Any]] = {
    "backbone": lambda record: record.backbone.name,
    "connector": lambda record: record.connector.kind,
    "geometry": lambda record: record.backbone.canvas_geometry,
    "tap": lambda record: record.backbone.tap,
    "wiring": lambda record: record.backbone.frozen_mode,
    "seed": lambda record: record.seed,
    "width": lambda record: record.backbone.embed_dim,
}
ALWAYS_ALLOWED = ("seed", "width")

PACKAGES, IMAGE_FILES = "packages", "image files"  # each a mapping; what all runs recorded of it is compared

# What is compared: title, the fact of a run, and the factors that may decide it.
FACTS: tuple[tuple[str, Callable[[Run], Any], tuple[str, ...]], ...] = (
    ("recipe", lambda run: run.record.recipe_digest, ()),
    ("training data", lambda run: run.record.data_digest, ()),
    (IMAGE_FILES, lambda run: run.record.image_digests, ()),
    ("left-out records", lambda run: run.record.left_out, ()),
    ("batch order", lambda run: run.record.order_digest, ("seed",)),
    ("training steps", lambda run: run.record.num_steps, ()),
    ("training prompt", lambda run: run.record.train_prompt, ()),
    ("test prompt", lambda run: run.record.test_prompt, ()),
    ("benchmarks", lambda run: run.benchmarks, ()),
    ("questions and true answers", lambda run: _questions(run), ()),
    ("seed", lambda run: run.record.seed, ("seed",)),
    ("LLM", lambda run: run.record.llm.name, ()),
    ("LLM weights", lambda run: run.record.llm.sha256, ()),
    ("connector", lambda run: run.record.connector.kind, ("connector",)),
    ("connector start", lambda run: run.record.connector.init_digest, ("connector", "width", "seed", "wiring")),
    ("backbone", lambda run: run.record.backbone.name, ("backbone",)),
    ("backbone weights", lambda run: run.record.backbone.weights_sha256, ("backbone",)),
    ("tap", lambda run: run.record.backbone.tap, ("backbone", "tap", "wiring")),
    ("token width", lambda run: run.record.backbone.embed_dim, ("backbone", "tap", "wiring")),
    ("token grid", lambda run: _grid(run.record), ("backbone", "tap", "geometry", "wiring")),
    ("image geometry", lambda run: run.record.backbone.canvas_geometry, ("geometry", "wiring")),
    ("normalisation", lambda run: run.record.backbone.colours, ("backbone", "wiring")),
    (
        "norm at the tap",
        lambda run: run.record.observed.tap_norm,
        ("backbone", "tap", "wiring"),
    ),
    ("frozen mode", lambda run: run.record.backbone.frozen_mode, ("wiring",)),
    ("training box frame", lambda run: run.record.train_box_frame, ()),
    ("test box frame", lambda run: run.record.test_box_frame, ()),
    ("code version", lambda run: run.environment.code_version, ()),
    ("Python", lambda run: run.environment.python, ()),
    (PACKAGES, lambda run: run.environment.packages, ()),
    ("operating system", lambda run: run.environment.platform, ()),
    ("processor", lambda run: run.environment.cpu, ()),
    ("GPUs", lambda run: run.environment.gpus, ()),
    ("threads", lambda run: run.environment.num_threads, ()),
)


@dataclass(frozen=True)
class Fact:
    """One fact, compared between runs.

    Attributes:
        title: what it is.
        values: run (``arm/seed-n``) to value.
        explained_by: the allowed factors that may decide it; empty if it has to be equal.
    """

    title: str
    values: dict[str, Any]
    explained_by: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        runs: names of the runs compared, ``arm/seed-n``.
        may_differ: factors that the study declared.
        equal: facts on which all runs agree.
        declared: differences that allowed factors explain.
        undeclared: every other difference.
        unknown: titles of facts that no run recorded, so that nothing is proven about them.
        warnings: what else a reader must know, errors first; see `Finding`.
        canvas: run to data set to how its images lie on the canvas, see `eyeswap.runs.record.CanvasUse`.
    """

    runs: tuple[str, ...]
    may_differ: tuple[str, ...]
    equal: tuple[Fact, ...]
    declared: tuple[Fact, ...]
    undeclared: tuple[Fact, ...]
    unknown: tuple[str, ...]
    warnings: tuple[Finding, ...]
    canvas: dict[str, Mapping[str, CanvasUse]]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the records themselves doubtful."""
        return tuple(finding for finding in self.warnings if finding.severity == "error")

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain data for JSON."""
        canvas = {
            run: {data: use.model_dump(mode="json") for data, use in uses.items()} for run, uses in self.canvas.items()
        }
        return asdict(replace(self, canvas={})) | {"canvas": canvas}


def audit(runs: Iterable[Run]) -> AuditReport:
    """Compare runs fact by fact.

    Raises:
        DataError: if a record is missing or damaged, or fewer than two different runs are given.
    """
    by_name = named(runs)
    if len(by_name) < 2:
        raise DataError(f"{next(iter(by_name), 'nothing')}: an audit compares at least two runs")
    records = {name: run.record for name, run in by_name.items()}
    may_differ = tuple(factor for factor in FACTORS if all(factor in one.may_differ for one in records.values()))
    facts: dict[str, list[Fact]] = {"equal": [], "declared": [], "undeclared": []}
    unknown = []
    for title, value_of, factors in FACTS:
        values = {name: value_of(run) for name, run in by_name.items()}
        if all(value is None for value in values.values()):
            unknown.append(title)
            continue
        if title in (PACKAGES, IMAGE_FILES):
            values = _of_all(values)
        fact = Fact(title, values, tuple(name for name in factors if name in (*may_differ, *ALWAYS_ALLOWED)))
        facts[_verdict(fact, records)].append(fact)
    findings = [finding for check in CHECKS for finding in check(records)]
    findings += check_errors(by_name)
    for name, run in by_name.items():
        findings += [*check_files(name, run), *check_answers(name, run), *check_training_log(name, run)]
    return AuditReport(
        runs=tuple(by_name),
        may_differ=may_differ,
        equal=tuple(facts["equal"]),
        declared=tuple(facts["declared"]),
        undeclared=tuple(facts["undeclared"]),
        unknown=tuple(unknown),
        warnings=tuple(merged(findings)),
        canvas={name: audit_canvas.uses_of(record) for name, record in records.items()},
    )


def _questions(run: Run) -> dict[str, str | None] | None:
    """Return the digest of the questions and true answers of each benchmark; None before any was asked."""
    return {name: about.questions_digest for name, about in run.asked.items()} or None


def _of_all(values: Mapping[str, Mapping[str, str | None] | None]) -> dict[str, Any]:
    """Return what every run recorded: newer versions record more packages, later runs are asked more benchmarks."""
    shared = set.intersection(*(set(one) for one in values.values() if one is not None))
    return {
        run: None if one is None else {key: one[key] for key in one if key in shared} for run, one in values.items()
    }


def _grid(record: RunRecord) -> list[int] | None:
    return None if record.backbone.token_grid is None else list(record.backbone.token_grid)


def _verdict(fact: Fact, records: Records) -> str:
    texts = {name: canonical_json(value) for name, value in fact.values.items()}
    if len(set(texts.values())) == 1:
        return "equal"
    if not fact.explained_by:
        return "undeclared"
    seen: dict[str, str] = {}
    for name, record in records.items():
        levels = canonical_json([FACTORS[factor](record) for factor in fact.explained_by])
        if seen.setdefault(levels, texts[name]) != texts[name]:
            return "undeclared"  # the factors are equal, the fact is not
    return "declared"
