"""One thing that an audit finds besides plain differences, and the run records that its checks read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from eyeswap.files import canonical_json
from eyeswap.runs.record import RunRecord

Records = Mapping[str, RunRecord]  # by the name of the run
Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MOST_NAMES = 4  # of runs, in a sentence


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found besides plain differences.

    Attributes:
        key: what kind of thing; also the heading in ``docs/audit.md`` that explains it.
        severity: ``error`` (a record does not say what happened), ``warning`` (it weakens the comparison), ``note``.
        runs: names of the runs concerned, ``arm/seed-n``.
        message: one sentence, about each of the runs or about all of them together.
        evidence: the numbers behind it, ready for JSON.
        together: whether it is about the runs as a set, as "one seed" is.
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
        more = f" and {len(self.runs) - _MOST_NAMES} more" if len(self.runs) > _MOST_NAMES else ""
        return f"{', '.join(self.runs[:_MOST_NAMES])}{more}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data for JSON."""
        return asdict(self)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with those that say the same of several runs made one, errors first."""
    one_by_text: dict[str, Finding] = {}
    for finding in findings:
        text = canonical_json([finding.key, finding.severity, finding.message, finding.evidence])
        known = one_by_text.get(text)
        one_by_text[text] = replace(finding, runs=(*known.runs, *finding.runs)) if known else finding
    return sorted(one_by_text.values(), key=lambda finding: SEVERITIES.index(finding.severity))


def runs_of(records: Records, arms: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the runs of some arms."""
    wanted = set(arms)
    return tuple(name for name, record in records.items() if record.arm in wanted)
