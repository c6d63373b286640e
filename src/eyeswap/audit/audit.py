"""Audit of run folders: prove what was held fixed, and list every difference that the study did not declare.

The audit relies on digests, not on intentions. Every audited property (fact) of a run depends on certain factors. A
difference is *declared* if the factors in ``may_differ`` explain it, that is, if runs with equal factors agree. Any
other difference is *undeclared*. Findings are issues that weaken a comparison even though they are equal or declared,
and records that contradict their files; ``docs/audit.md`` explains each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eyeswap.audit import backbones as audit_backbones
from eyeswap.audit import canvas as audit_canvas
from eyeswap.audit import design as audit_design
from eyeswap.audit.answers import check_answers
from eyeswap.audit.between_runs import check_between_runs
from eyeswap.audit.finding import Finding, Records, merged
from eyeswap.audit.records import check_files, check_training_log
from eyeswap.errors import DataError
from eyeswap.files import canonical_json
from eyeswap.results.run import Run, named
from eyeswap.runs.record import CanvasUse, RunRecord
from eyeswap.runs.seal import sealed_digests

__all__ = ["AuditReport", "Fact", "Finding", "audit"]

CHECKS = (*audit_backbones.CHECKS, *audit_canvas.CHECKS, *audit_design.CHECKS)

# The factors, as read from a run's record. Seed and token width may always explain a difference: seeds differ by
# design, and the width is audited itself.
FACTORS: dict[str, Callable[[RunRecord], Any]] = {
    "backbone": lambda record: (record.backbone.name, record.backbone_file),
    "connector": lambda record: record.connector.kind,
    "geometry": lambda record: record.backbone.canvas_geometry,
    "tap": lambda record: record.backbone.tap,
    "wiring": lambda record: record.backbone.frozen_mode,
    "llm": lambda record: record.llm.name,
    "lr": lambda record: record.setting("lr"),
    "data": lambda record: record.data_digest,
    "trainable": lambda record: record.trained,
    "stages": lambda record: record.stages,
    "seed": lambda record: record.seed,
    "width": lambda record: record.backbone.embed_dim,
}
ALWAYS_ALLOWED = ("seed", "width")

PACKAGES, IMAGE_FILES = "packages", "image files"  # mappings, of which the keys that all runs have are compared

# What is compared: title, value of a run, and the factors that it may depend on.
FACTS: tuple[tuple[str, Callable[[Run], Any], tuple[str, ...]], ...] = (
    ("recipe", lambda run: run.record.recipe_digest, ()),
    ("training data", lambda run: run.record.data_digest, ("data",)),
    (IMAGE_FILES, lambda run: run.record.image_digests, ("data",)),
    ("left-out records", lambda run: run.record.left_out, ("data",)),
    ("batch order", lambda run: run.record.order_digest, ("seed", "data")),
    ("training steps", lambda run: run.record.num_steps, ("data",)),
    ("learning rate", lambda run: run.record.setting("lr"), ("lr",)),
    ("trained parts", lambda run: run.record.trained, ("trainable",)),
    ("training stages", lambda run: run.record.stages, ("stages",)),
    ("training prompt", lambda run: run.record.train_prompt, ("llm", "data")),
    ("test prompt", lambda run: run.record.test_prompt, ("llm",)),
    ("benchmarks", lambda run: run.benchmarks, ()),
    ("questions and true answers", lambda run: _questions(run), ()),
    ("scoring rules", lambda run: _rules(run), ()),
    ("seed", lambda run: run.record.seed, ("seed",)),
    ("LLM", lambda run: run.record.llm.name, ("llm",)),
    ("LLM weights", lambda run: run.record.llm.sha256, ("llm",)),
    ("tokenizer", lambda run: _tokenizer(run), ("llm",)),
    ("connector", lambda run: _connector(run.record), ("connector",)),
    ("connector start", lambda run: run.record.connector.init_digest, ("connector", "width", "seed", "wiring", "llm")),
    ("backbone", lambda run: run.record.backbone.name, ("backbone",)),
    ("backbone weights", lambda run: run.record.backbone.weights_sha256, ("backbone",)),
    ("tap", lambda run: run.record.backbone.tap, ("backbone", "tap", "wiring")),
    ("token width", lambda run: run.record.backbone.embed_dim, ("backbone", "tap", "wiring")),
    ("token grid", lambda run: _grid(run.record), ("backbone", "tap", "geometry", "wiring")),
    (
        "visual tokens",
        lambda run: run.record.num_visual_tokens,
        ("backbone", "tap", "geometry", "wiring", "connector"),
    ),
    ("image geometry", lambda run: run.record.backbone.canvas_geometry, ("geometry", "wiring")),
    ("normalisation", lambda run: run.record.backbone.colours, ("backbone", "wiring")),
    (
        "norm at the tap",
        lambda run: run.record.observed.tap_norm,
        ("backbone", "tap", "wiring"),
    ),
    ("frozen mode", lambda run: run.record.backbone.frozen_mode, ("wiring",)),
    ("training box frame", lambda run: run.record.train_box_frame, ("data",)),
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
    """One property of the runs, compared between them.

    Attributes:
        title: name of the property.
        values: run (``arm/seed-n``) to value.
        explained_by: the allowed factors that it may depend on; empty if it must be equal.
    """

    title: str
    values: dict[str, Any]
    explained_by: tuple[str, ...]

    @property
    def runs_by_value(self) -> dict[str, list[str]]:
        """The distinct values as text, each with the names of the runs that have it."""
        runs_by_value: dict[str, list[str]] = {}
        for run, value in self.values.items():
            runs_by_value.setdefault(_as_text(value), []).append(run)
        return runs_by_value


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        runs: names of the runs compared, ``arm/seed-n``.
        may_differ: factors in which the study declares that arms may differ.
        equal: facts on which all runs agree.
        declared: differences that allowed factors explain.
        undeclared: all other differences.
        unknown: titles of facts that no run recorded, and that are therefore not verified.
        warnings: all findings, errors first.
        canvas: run to data set to the placement of its images, see `eyeswap.runs.record.CanvasUse`.
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
        """The findings that cast doubt on the records themselves."""
        return tuple(finding for finding in self.warnings if finding.severity == "error")

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON content."""
        canvas = {
            run: {data: use.model_dump(mode="json") for data, use in uses.items()} for run, uses in self.canvas.items()
        }
        return asdict(replace(self, canvas={})) | {"canvas": canvas}


def audit(runs: Iterable[Run]) -> AuditReport:
    """Compare runs fact by fact, and check each run's records.

    Raises:
        DataError: if a record is missing or damaged, or fewer than two different runs are given.
    """
    by_name = named(runs)
    if len(by_name) < 2:
        raise DataError(f"{next(iter(by_name), 'nothing')}: an audit compares at least two runs")
    records = {name: run.record for name, run in by_name.items()}
    may_differ = tuple(factor for factor in FACTORS if all(factor in record.may_differ for record in records.values()))
    facts: dict[str, list[Fact]] = {"equal": [], "declared": [], "undeclared": []}
    unknown = []
    for title, value_of, factors in FACTS:
        values = {name: value_of(run) for name, run in by_name.items()}
        if all(value is None for value in values.values()):
            unknown.append(title)
            continue
        if title in (PACKAGES, IMAGE_FILES):
            values = _shared_keys(values)
        fact = Fact(title, values, tuple(name for name in factors if name in (*may_differ, *ALWAYS_ALLOWED)))
        facts[_verdict(fact, records)].append(fact)
    findings = [finding for check in CHECKS for finding in check(records)]
    findings += check_between_runs(by_name)
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


def _as_text(value: Any) -> str:
    """Return a value as text; digests are shortened to twelve digits."""
    if isinstance(value, str) and len(value) == 64 and value.isalnum():
        return value[:12]
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_as_text(inner)}" for key, inner in value.items())
    return "not recorded" if value is None else str(value)


def _questions(run: Run) -> dict[str, str | None] | None:
    """Return the digest of the questions and answer keys of each benchmark; None before any was asked."""
    return {name: benchmark.questions_digest for name, benchmark in run.asked.items()} or None


def _rules(run: Run) -> dict[str, list[Any]] | None:
    """Return how each benchmark is scored, and against which trivial baseline; None before any was asked."""
    rules = {
        name: [asked.group, asked.metric, asked.iou_threshold, asked.baseline] for name, asked in run.asked.items()
    }
    return rules or None


def _tokenizer(run: Run) -> dict[str, str] | None:
    """Return the digests of the sealed tokenizer files; None if there are none."""
    return sealed_digests(run.folder, run.files.model, "*token*.json") or None


def _shared_keys(values: Mapping[str, Mapping[str, str | None] | None]) -> dict[str, Any]:
    """Keep the keys that all runs recorded: newer versions record more packages, later runs have more benchmarks."""
    shared = set.intersection(*(set(recorded) for recorded in values.values() if recorded is not None))
    return {
        run: None if recorded is None else {key: value for key, value in recorded.items() if key in shared}
        for run, recorded in values.items()
    }


def _connector(record: RunRecord) -> str | None:
    """Return the name of the connector; with the digest of its code, if it is of one's own."""
    code = record.connector.file_sha256
    return record.connector.kind if code is None else f"{record.connector.kind}, code {code[:12]}"


def _grid(record: RunRecord) -> list[int] | None:
    return None if record.backbone.token_grid is None else list(record.backbone.token_grid)


def _verdict(fact: Fact, records: Records) -> str:
    texts = {name: canonical_json(value) for name, value in fact.values.items()}
    if len(set(texts.values())) == 1:
        return "equal"
    if not fact.explained_by:
        return "undeclared"
    value_by_levels: dict[str, str] = {}
    for name, record in records.items():
        levels = canonical_json([FACTORS[factor](record) for factor in fact.explained_by])
        if value_by_levels.setdefault(levels, texts[name]) != texts[name]:
            return "undeclared"  # the factors are equal, the fact is not
    return "declared"
