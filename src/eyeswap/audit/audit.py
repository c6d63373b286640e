"""Prove from run folders what was held fixed, and find every difference that the study did not declare.

The audit believes digests, not intentions. Every fact about a run has factors that may decide it. A difference is
*declared* if the factors that ``may_differ`` names explain it: runs with equal factors agree. Any other difference is
*undeclared*. Findings are facts that weaken a comparison although they are equal or declared, and records that do
not fit their files; ``docs/audit.md`` explains each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eyeswap.audit import backbones as audit_backbones
from eyeswap.audit import canvas as audit_canvas
from eyeswap.audit import design as audit_design
from eyeswap.errors import DataError
from eyeswap.files import canonical_json
from eyeswap.runs.record import Finding, Record, at, merged, read_records
from eyeswap.runs.seal import check_files

__all__ = ["AuditReport", "Fact", "Finding", "audit"]

CHECKS = (*audit_backbones.CHECKS, *audit_canvas.CHECKS, *audit_design.CHECKS)

# Where each factor stands in a run's record. Seed and token width are always allowed to explain a difference:
# seeds are drawn on purpose, and a width is a fact of its own.
FACTORS: dict[str, str] = {
    "backbone": "backbone.name",
    "connector": "connector.kind",
    "geometry": "geometry",
    "tap": "backbone.tap",
    "wiring": "backbone.frozen_mode",
    "seed": "seed",
    "width": "backbone.embed_dim",
}
ALWAYS_ALLOWED = ("seed", "width")

# What is compared: title, place in the record, and the factors that may decide it.
FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("recipe", "recipe_digest", ()),
    ("training data", "data_digest", ()),
    ("left-out records", "left_out", ()),
    ("batch order", "order_digest", ("seed",)),
    ("training steps", "num_steps", ()),
    ("training prompt", "train_prompt", ()),
    ("test prompt", "test_prompt", ()),
    ("benchmarks", "benchmarks", ()),
    ("questions and true answers", "questions", ()),
    ("seed", "seed", ("seed",)),
    ("LLM", "llm.name", ()),
    ("LLM weights", "llm.sha256", ()),
    ("connector", "connector.kind", ("connector",)),
    ("connector start", "connector.init_digest", ("connector", "width", "seed", "wiring")),
    ("backbone", "backbone.name", ("backbone",)),
    ("backbone weights", "backbone.weights_sha256", ("backbone",)),
    ("tap", "backbone.tap", ("backbone", "tap", "wiring")),
    ("token width", "backbone.embed_dim", ("backbone", "tap", "wiring")),
    ("token grid", "backbone.token_grid", ("backbone", "tap", "geometry", "wiring")),
    ("image geometry", "geometry", ("geometry", "wiring")),
    ("normalisation", "normalisation", ("backbone", "wiring")),
    ("norm at the tap", "observed.tap_norm", ("backbone", "tap", "wiring")),
    ("frozen mode", "backbone.frozen_mode", ("wiring",)),
    ("training box frame", "train_box_frame", ()),
    ("test box frame", "test_box_frame", ()),
    ("code version", "environment.code_version", ()),
    ("packages", "environment.packages", ()),
    ("processor", "environment.cpu", ()),
    ("GPUs", "environment.gpus", ()),
    ("threads", "environment.num_threads", ()),
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
        canvas: run to data set to how its images lie on the canvas, see `eyeswap.audit.observed.CanvasUse`.
    """

    runs: tuple[str, ...]
    may_differ: tuple[str, ...]
    equal: tuple[Fact, ...]
    declared: tuple[Fact, ...]
    undeclared: tuple[Fact, ...]
    unknown: tuple[str, ...]
    warnings: tuple[Finding, ...]
    canvas: dict[str, Mapping[str, Any]]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the records themselves doubtful."""
        return tuple(finding for finding in self.warnings if finding.severity == "error")

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain data for JSON."""
        return asdict(self)


def audit(run_dirs: Sequence[Path]) -> AuditReport:
    """Compare runs fact by fact.

    Raises:
        DataError: if a record is missing or damaged, or fewer than two different runs are given.
    """
    records = read_records(run_dirs)
    if len(records) < 2:
        raise DataError(f"{run_dirs[0] if run_dirs else 'nothing'}: an audit compares at least two runs")
    declared = [set(record.get("may_differ", ())) for record in records.values()]
    may_differ = tuple(factor for factor in FACTORS if all(factor in names for names in declared))
    found: dict[str, list[Fact]] = {"equal": [], "declared": [], "undeclared": []}
    unknown = []
    for title, place, factors in FACTS:
        values = {name: at(record, place) for name, record in records.items()}
        if all(value is None for value in values.values()):
            unknown.append(title)
            continue
        fact = Fact(title, values, tuple(name for name in factors if name in (*may_differ, *ALWAYS_ALLOWED)))
        found[_verdict(fact, records)].append(fact)
    findings = [finding for check in CHECKS for finding in check(records)]
    for (name, record), path in zip(records.items(), run_dirs, strict=True):
        findings += check_files(name, path, record)
    return AuditReport(
        runs=tuple(records),
        may_differ=may_differ,
        equal=tuple(found["equal"]),
        declared=tuple(found["declared"]),
        undeclared=tuple(found["undeclared"]),
        unknown=tuple(unknown),
        warnings=tuple(merged(findings)),
        canvas={name: audit_canvas.uses_of(record) for name, record in records.items()},
    )


def _verdict(fact: Fact, records: Mapping[str, Record]) -> str:
    texts = {name: canonical_json(value) for name, value in fact.values.items()}
    if len(set(texts.values())) == 1:
        return "equal"
    if not fact.explained_by:
        return "undeclared"
    seen: dict[str, str] = {}
    for name, record in records.items():
        levels = canonical_json([at(record, FACTORS[factor]) for factor in fact.explained_by])
        if seen.setdefault(levels, texts[name]) != texts[name]:
            return "undeclared"  # the factors are equal, the fact is not
    return "declared"
