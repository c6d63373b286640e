"""What a run recorded about itself, read back, and the form of what an audit finds in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eyeswap.errors import DataError
from eyeswap.files import canonical_json, read_json
from eyeswap.runs.folder import RunFolder

Record = Mapping[str, Any]
Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MOST_NAMES = 4  # of runs, in a sentence
COLOUR_KEYS = ("mean", "std", "fill")  # an encoder's own normalisation, no part of where pixels go


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


def read_records(run_dirs: Iterable[Path]) -> dict[str, Record]:
    """Return the records of runs by name: ``arm/seed-n``, or the folder where that is taken.

    Raises:
        DataError: as `read_record`.
    """
    records: dict[str, Record] = {}
    for path in run_dirs:
        record = read_record(path)
        name = f"{record['arm']}/seed-{record['seed']}"
        records[f"{path}" if name in records else name] = record
    return records


def read_record(run_dir: Path) -> Record:
    """Return what a run recorded about itself: ``spec.json``, with ``environment`` and ``questions`` beside it.

    Raises:
        DataError: if either file is missing or has not its documented keys.
    """
    files = RunFolder(run_dir)
    record = read_json(files.record)
    if not isinstance(record, dict):
        raise DataError(f"{files.record}: expected an object")
    for key in ("arm", "seed", "recipe_digest", "backbone", "llm", "connector"):
        if key not in record:
            raise DataError(f"{files.record}: {key}: missing")
    geometry, colours = at(record, "backbone.geometry"), None
    if isinstance(geometry, dict):
        colours = {key: geometry[key] for key in COLOUR_KEYS if key in geometry}
        geometry = {key: value for key, value in geometry.items() if key not in COLOUR_KEYS}
    return {
        **record,
        "geometry": geometry,
        "normalisation": colours,
        "environment": read_json(files.environment),
        "questions": _questions(files.benchmarks),
    }


def _questions(path: Path) -> dict[str, Any] | None:
    """Return the digest of the questions and true answers of each benchmark; None before any was asked."""
    index = read_json(path) if path.is_file() else None
    if not isinstance(index, dict):
        return None
    return {name: about.get("questions_digest") for name, about in index.items() if isinstance(about, dict)}


def at(record: Record, place: str) -> Any:
    """Return what stands in a record at a place such as ``backbone.name``; None where nothing does."""
    value: Any = record
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def by_arm(records: Mapping[str, Record], place: str) -> dict[str, Any]:
    """Return what the arms recorded at a place, arms that recorded nothing left out."""
    values = {str(record["arm"]): at(record, place) for record in records.values()}
    return {arm: value for arm, value in values.items() if value is not None}


def runs_of(records: Mapping[str, Record], arms: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the runs of some arms."""
    wanted = set(arms)
    return tuple(name for name, record in records.items() if str(record["arm"]) in wanted)
