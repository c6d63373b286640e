"""The findings of an audit, besides differences between runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eyeswap.files import canonical_json
from eyeswap.runs.record import RunRecord

Records = Mapping[str, RunRecord]  # by the name of the run
Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MAX_NAMES = 4  # runs named in a sentence


@dataclass(frozen=True)
class Finding:
    """One finding of an audit.

    Attributes:
        key: kind of finding, which is also the heading in ``docs/audit.md`` that explains it.
        severity: ``error`` (a record is wrong), ``warning`` (the comparison is weakened) or ``note``.
        runs: names of the runs concerned, ``arm/seed-n``.
        message: one sentence, about each of the runs or about all of them together.
        evidence: the numbers behind it, as JSON content.
        together: whether it is about the runs as a set, like "one seed".
        docs: where it is explained.
    """

    key: str
    severity: Severity
    runs: tuple[str, ...]
    message: str
    evidence: dict[str, Any]
    together: bool = False
    docs: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "docs", f"docs/audit.md#{self.key}")

    def __str__(self) -> str:
        if self.together:
            return self.message
        more = f" and {len(self.runs) - _MAX_NAMES} more" if len(self.runs) > _MAX_NAMES else ""
        return f"{', '.join(self.runs[:_MAX_NAMES])}{more}: {self.message}"


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Merge findings that are identical but for their runs, and sort them, errors first."""
    by_content: dict[str, Finding] = {}
    for finding in findings:
        content = canonical_json([finding.key, finding.severity, finding.message, finding.evidence])
        known = by_content.get(content)
        by_content[content] = replace(finding, runs=(*known.runs, *finding.runs)) if known else finding
    return sorted(by_content.values(), key=lambda finding: SEVERITIES.index(finding.severity))


def runs_of(records: Records, arms: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the runs of the given arms."""
    selected = set(arms)
    return tuple(name for name, record in records.items() if record.arm in selected)
