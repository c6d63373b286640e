"""What was held fixed: audit and collapse diagnosis of the finished runs, prepared for the writers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eyeswap.audit.audit import AuditReport, Fact, audit
from eyeswap.collapse.verdict import ArmDiagnosis, diagnose
from eyeswap.report.analysis.study import StudyResults
from eyeswap.report.style import DASH
from eyeswap.runs.privacy import without_paths


@dataclass(frozen=True)
class Row:
    """One audited property of the runs.

    Attributes:
        title: name of the property.
        verdict: ``equal``, ``declared`` (differs as the study declares), ``undeclared`` or ``unknown``.
        values: (value, runs that have it); without runs if all share the value.
    """

    title: str
    verdict: str
    values: list[tuple[str, str]]


def audited(results: StudyResults) -> AuditReport | None:
    """Audit the finished runs, without the paths of this machine; None if there are fewer than two.

    Raises:
        DataError: as `eyeswap.audit.audit.audit`.
    """
    runs = [run for arm in results.finished_arms for run in arm.runs]
    return without_paths(audit(runs)) if len(runs) > 1 else None


def diagnosed(results: StudyResults) -> list[ArmDiagnosis]:
    """Diagnose every finished arm for collapsed localization; empty without localization benchmarks.

    Raises:
        DataError: as `eyeswap.collapse.verdict.diagnose`.
    """
    if "localization" not in results.groups:
        return []
    return diagnose(run for arm in results.finished_arms for run in arm.runs)


def fact_rows(report: AuditReport) -> list[Row]:
    """Return every audited property, undeclared differences first."""
    named = {"undeclared": report.undeclared, "declared": report.declared, "equal": report.equal}
    rows = [Row(fact.title, verdict, _values(fact)) for verdict, facts in named.items() for fact in facts]
    return rows + [Row(title, "unknown", []) for title in report.unknown]


def recipe_rows(results: StudyResults) -> list[tuple[str, str]]:
    """Return the recipe as (field, value) rows, with nested fields as ``data.seed``."""
    return _flat(without_paths(results.study.get("recipe", {})))


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows += _flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", DASH if item is None else str(item)))
    return rows


def _values(fact: Fact) -> list[tuple[str, str]]:
    runs_by_value = fact.runs_by_value
    if len(runs_by_value) == 1:
        return [(next(iter(runs_by_value)), "")]
    return [(value, ", ".join(runs)) for value, runs in runs_by_value.items()]
