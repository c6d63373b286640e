"""Prove from run folders what was held fixed, and find every difference that the study did not declare.

The audit reads ``spec.json`` and ``environment.json`` only; it believes digests, not intentions. Every fact
about a run has factors that may decide it. A difference is *declared* if the factors that ``may_differ``
names explain it: runs with equal factors agree. Any other difference is *undeclared*. Warnings are
legitimate facts that weaken a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eyeswap.errors import DataError
from eyeswap.files import canonical_json, read_json

Record = Mapping[str, Any]

PARAMETER_TOLERANCE = 0.10
COLOUR_KEYS = ("mean", "std", "fill")  # an encoder's own normalisation, no part of where pixels go

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
    ("batch order", "order_digest", ("seed",)),
    ("training steps", "num_steps", ()),
    ("training prompt", "train_prompt", ()),
    ("test prompt", "test_prompt", ()),
    ("benchmarks", "benchmarks", ()),
    ("seed", "seed", ("seed",)),
    ("LLM", "llm.name", ()),
    ("LLM weights", "llm.sha256", ()),
    ("connector", "connector.kind", ("connector",)),
    ("connector start", "connector.init_digest", ("connector", "width", "seed")),
    ("backbone", "backbone.name", ("backbone",)),
    ("backbone weights", "backbone.weights_sha256", ("backbone",)),
    ("tap", "backbone.tap", ("backbone", "tap", "wiring")),
    ("token width", "backbone.embed_dim", ("backbone", "tap", "wiring")),
    ("token grid", "backbone.token_grid", ("backbone", "tap", "geometry", "wiring")),
    ("image geometry", "geometry", ("geometry", "wiring")),
    ("normalisation", "normalisation", ("backbone",)),
    ("frozen mode", "backbone.frozen_mode", ("wiring",)),
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
        warnings: one line each.
    """

    runs: tuple[str, ...]
    may_differ: tuple[str, ...]
    equal: tuple[Fact, ...]
    declared: tuple[Fact, ...]
    undeclared: tuple[Fact, ...]
    unknown: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain data for JSON."""
        return asdict(self)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among ``paths``; a study's or an arm's folder stands for all runs below it.

    Raises:
        DataError: if a path holds no run.
    """
    runs: list[Path] = []
    for path in paths:
        is_run = (path / "spec.json").is_file()
        found = [path] if is_run else sorted(spec.parent for spec in path.glob("**/seed-*/spec.json"))
        if not found:
            raise DataError(f"{path}: holds no run (a run folder has a spec.json)")
        runs += [run for run in found if run not in runs]
    return runs


def audit(run_dirs: Sequence[Path]) -> AuditReport:
    """Compare runs fact by fact.

    Raises:
        DataError: if a record is missing or damaged, or fewer than two different runs are given.
    """
    records: dict[str, Record] = {}
    for path in run_dirs:
        record = read_record(path)
        name = f"{record['arm']}/seed-{record['seed']}"
        records[f"{path}" if name in records else name] = record
    if len(records) < 2:
        raise DataError(f"{run_dirs[0] if run_dirs else 'nothing'}: an audit compares at least two runs")
    declared = [set(record.get("may_differ", ())) for record in records.values()]
    may_differ = tuple(factor for factor in FACTORS if all(factor in names for names in declared))
    found: dict[str, list[Fact]] = {"equal": [], "declared": [], "undeclared": []}
    unknown = []
    for title, place, factors in FACTS:
        values = {name: _at(record, place) for name, record in records.items()}
        if all(value is None for value in values.values()):
            unknown.append(title)
            continue
        fact = Fact(title, values, tuple(name for name in factors if name in (*may_differ, *ALWAYS_ALLOWED)))
        found[_verdict(fact, records)].append(fact)
    return AuditReport(
        runs=tuple(records),
        may_differ=may_differ,
        equal=tuple(found["equal"]),
        declared=tuple(found["declared"]),
        undeclared=tuple(found["undeclared"]),
        unknown=tuple(unknown),
        warnings=tuple(warning for check in WARNINGS for warning in check(records)),
    )


def read_record(run_dir: Path) -> Record:
    """Return what a run recorded about itself: ``spec.json`` with ``environment.json`` under its own key.

    Raises:
        DataError: if either file is missing or has not its documented keys.
    """
    record = read_json(run_dir / "spec.json")
    if not isinstance(record, dict):
        raise DataError(f"{run_dir / 'spec.json'}: expected an object")
    for key in ("arm", "seed", "recipe_digest", "backbone", "llm", "connector"):
        if key not in record:
            raise DataError(f"{run_dir / 'spec.json'}: {key}: missing")
    geometry, colours = _at(record, "backbone.geometry"), None
    if isinstance(geometry, dict):
        colours = {key: geometry[key] for key in COLOUR_KEYS if key in geometry}
        geometry = {key: value for key, value in geometry.items() if key not in COLOUR_KEYS}
    environment = read_json(run_dir / "environment.json")
    return {**record, "geometry": geometry, "normalisation": colours, "environment": environment}


def _at(record: Record, place: str) -> Any:
    value: Any = record
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _verdict(fact: Fact, records: Mapping[str, Record]) -> str:
    texts = {name: canonical_json(value) for name, value in fact.values.items()}
    if len(set(texts.values())) == 1:
        return "equal"
    if not fact.explained_by:
        return "undeclared"
    seen: dict[str, str] = {}
    for name, record in records.items():
        levels = canonical_json([_at(record, FACTORS[factor]) for factor in fact.explained_by])
        if seen.setdefault(levels, texts[name]) != texts[name]:
            return "undeclared"  # the factors are equal, the fact is not
    return "declared"


def _not_frozen(records: Mapping[str, Record]) -> Iterator[str]:
    for name, record in records.items():
        mode = _at(record, "backbone.frozen_mode")
        if mode not in (None, "eval"):
            yield f"{name}: the frozen backbone was not in eval mode while its tokens were made (mode {mode})"


def _random_weights(records: Mapping[str, Record]) -> Iterator[str]:
    for name, record in records.items():
        if _at(record, "backbone.name") and _at(record, "backbone.weights_sha256") is None:
            yield f"{name}: the backbone has no recorded weights, so they may be random"


def _unequal_tokens(records: Mapping[str, Record]) -> Iterator[str]:
    grids = {str(record["arm"]): _at(record, "backbone.token_grid") for record in records.values()}
    counts = {arm: math.prod(grid) for arm, grid in grids.items() if grid}
    if len(set(counts.values())) > 1:
        yield f"arms give the LLM unequal numbers of visual tokens: {_listed(counts)}"


def _unequal_sizes(records: Mapping[str, Record]) -> Iterator[str]:
    sizes = {str(record["arm"]): _at(record, "backbone.num_parameters") for record in records.values()}
    known = {arm: int(size) for arm, size in sizes.items() if size}
    if known and max(known.values()) > (1 + PARAMETER_TOLERANCE) * min(known.values()):
        yield f"backbone sizes differ by more than {PARAMETER_TOLERANCE:.0%}: {_listed(known)} parameters"


def _single_seed(records: Mapping[str, Record]) -> Iterator[str]:
    if len({record["seed"] for record in records.values()}) == 1:
        yield "one seed: the spread between training runs is not in the intervals"


def _prompts_disagree(records: Mapping[str, Record]) -> Iterator[str]:
    differing: dict[tuple[str, str], list[str]] = {}
    for name, record in records.items():
        train, test = record.get("train_prompt"), record.get("test_prompt")
        if train is not None and test is not None and train != test:
            differing.setdefault((str(train), str(test)), []).append(name)
    for (train, test), names in differing.items():
        who = "all runs" if len(names) == len(records) else ", ".join(names)
        yield f"{who}: training and test prompts differ: trained as <{train}>, tested as <{test}>"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{arm} {count:,}" for arm, count in counts.items())


WARNINGS: tuple[Callable[[Mapping[str, Record]], Iterator[str]], ...] = (
    _not_frozen,
    _random_weights,
    _unequal_tokens,
    _unequal_sizes,
    _single_seed,
    _prompts_disagree,
)
