"""Checks of a run's records: its seal, its training log, and its records against their sources.

The sources are the study, the catalog, the packaged weights, and a connector initialized again from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from eyeswap.audit.finding import Finding
from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.backbones.state import state_digest
from eyeswap.connector_name import ConnectorName
from eyeswap.errors import DataError
from eyeswap.files import digest, sha256_of
from eyeswap.recipe import Align, Wiring
from eyeswap.results.run import Run
from eyeswap.runs.folder import SEED_PREFIX
from eyeswap.runs.identity import SETTINGS, backbone_identity, training_fields
from eyeswap.runs.record import COLOUR_KEYS, Geometry, RunRecord, StudyRecord
from eyeswap.runs.recorded import Recorded, read_record
from eyeswap.runs.seal import changed_files, missing_files, unsealed_files
from eyeswap.training.step import staged_rate
from eyeswap.versions import code_version
from eyeswap.vlm.connector import build_connector

_MAX_CONNECTOR = 50_000_000  # parameters; larger connectors are not initialized again


def check_files(name: str, run: Run) -> Iterator[Finding]:
    """Yield findings about a run's seal, and about records that contradict their sources.

    Args:
        name: the run's name in findings.
        run: the run.

    Raises:
        DataError: if the seal or the study's record is damaged.
    """
    if run.files.seal.is_file():
        yield from _seal_findings(name, run)
    elif run.files.is_scored:
        message = "the run was never sealed, so changes to its files since it ended cannot be detected"
        yield Finding("changed-files", "note", (name,), message, {"changed": None})
    reasons = dict(contradictions(run))
    if reasons:
        words = "; ".join(f"{field} {reason}" for field, reason in reasons.items())
        message = f"the record contradicts itself or its sources: {words}"
        yield Finding("contradiction", "error", (name,), message, reasons)


def _seal_findings(name: str, run: Run) -> Iterator[Finding]:
    checks = {
        "changed": ("files changed since the run ended", changed_files),
        "missing": ("files of the finished run are missing", missing_files),
        "unsealed": ("files of the run are not in its seal", unsealed_files),
    }
    for kind, (words, check) in checks.items():
        files = list(check(run.folder))
        if files:
            yield Finding("changed-files", "error", (name,), f"{words}: {', '.join(files)}", {kind: files})


def contradictions(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the fields of a run's record that cannot be true, each with the reason."""
    record = run.record
    if record.recipe is not None and digest(record.recipe) != record.recipe_digest:
        yield "recipe_digest", "is not the digest of the recipe in the record"
    if run.files.is_of_a_study:
        arm, seed = run.folder.parent.name, run.folder.name.removeprefix(SEED_PREFIX)
        if record.arm != arm:
            yield "arm", f"is {record.arm}, but the folder is named {arm}"
        if str(record.seed) != seed:
            yield "seed", f"is {record.seed}, but the folder is named {SEED_PREFIX}{seed}"
        if run.files.study.study.is_file():
            yield from _against_study(run, read_record(run.files.study.study, StudyRecord))
    yield from _against_catalog(run)
    yield from _against_connector(run)


def _against_study(run: Run, study: StudyRecord) -> Iterator[tuple[str, str]]:
    record = run.record
    if record.recipe is not None and training_fields(study.recipe or {}) != training_fields(record.recipe):
        yield "recipe", "differs from that of study.json"
    if study.may_differ is not None and not set(record.may_differ) <= set(study.may_differ):
        yield "may_differ", f"is {', '.join(record.may_differ)}, but {', '.join(study.may_differ)} in study.json"
    arm = study.arms.get(record.arm)
    if arm is None:
        return  # the run was imported from another part of the study
    for key in () if record.model is None else SETTINGS:
        recorded, declared = record.setting_of_arm(key), (arm.model_extra or {}).get(key)
        if recorded != declared:
            yield f"model.arm.{key}", f"is {recorded}, but {declared} in study.json"
    connector = arm.connector or (study.recipe or {}).get("connector")
    connector = connector and ConnectorName.parse(connector).identity
    if record.connector.kind not in (None, connector):
        yield "connector.kind", f"is {record.connector.kind}, but {connector} in study.json"
    if record.backbone.name is None or arm.backbone is None:
        return
    recorded, declared = map(backbone_identity, (record.backbone.name, arm.backbone))
    if recorded != declared:
        yield "backbone.name", f"is {recorded}, but {declared} in study.json"
    elif (entry := catalog.find(record.backbone.name)) is not None and record.backbone.tap is not None:
        wiring: Wiring = arm.wiring or (study.recipe or {}).get("wiring") or "controlled"
        tap = entry.wired(wiring).with_changes(tap=arm.tap).model_dump(mode="json")["tap"]
        if record.backbone.tap != tap:
            yield "backbone.tap", f"is {record.backbone.tap}, but {tap} in study.json"


def _against_catalog(run: Run) -> Iterator[tuple[str, str]]:
    """Compare with width, parameters and token grid of the catalog entry, and with its weights if they are known."""
    backbone = run.record.backbone
    entry = None if backbone.name is None else catalog.find(backbone.name)
    if entry is None:
        return
    if backbone.family not in (None, entry.family):
        yield "backbone.family", f"is {backbone.family}, but {entry.family} for {entry.name}"
    if entry.size is not None and backbone.tap == entry.model_dump(mode="json")["tap"]:
        same_canvas = backbone.canvas_geometry == _canvas_geometry(entry)
        sizes: dict[str, tuple[int | Sequence[int] | None, int | Sequence[int]]] = {
            "embed_dim": (backbone.embed_dim, entry.size.width),
            "num_parameters": (backbone.num_parameters, entry.size.parameters),
            "token_grid": (backbone.token_grid if same_canvas else None, entry.size.tokens),
        }
        for key, (recorded, expected) in sizes.items():
            if recorded not in (None, expected):
                yield f"backbone.{key}", f"is {_in_words(recorded)}, but {_in_words(expected)} for {entry.name}"
    known = run.record.backbone_file or entry.weights.sha256
    if known is None and entry.weights.packaged and _is_of_this_code(run) and entry.weights.packaged_path().is_file():
        known = sha256_of(entry.weights.packaged_path())
    if known is not None and backbone.weights_sha256 not in (None, known):
        source = entry.name if run.record.backbone_file is None else "the arm's file"
        yield "backbone.weights_sha256", f"is not the digest of the weights of {source}"


def _canvas_geometry(entry: BackboneEntry) -> Geometry:
    """Return an entry's geometry without colours, in the form of a record."""
    return {key: value for key, value in entry.geometry.canonical().items() if key not in COLOUR_KEYS}


def _in_words(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else "x".join(map(str, value))


def _against_connector(run: Run) -> Iterator[tuple[str, str]]:
    """Initialize the connector again from the seed, if it is small, and compare the digests."""
    connector, backbone = run.record.connector, run.record.backbone
    width, config = backbone.embed_dim, run.files.model_config
    if connector.kind is None or connector.init_digest is None or width is None:
        return
    if not config.is_file() or not _is_of_this_code(run):
        return
    llm_width = read_record(config, _ModelConfig).text_config.hidden_size
    name, grid = ConnectorName.parse(connector.kind), backbone.token_grid
    if name.own is not None:
        return  # an audit must not run custom code
    if name.steps and grid is not None and connector.num_tokens not in (None, name.num_tokens(grid)):
        yield "connector.num_tokens", f"is {connector.num_tokens}, but {name.text} gives {name.num_tokens(grid)}"
    if llm_width is None or name.parameters(width, llm_width) > _MAX_CONNECTOR:
        return
    wiring: Wiring = "as-published" if backbone.frozen_mode == "train" else "controlled"
    fresh = build_connector(connector.kind, width, llm_width, run.record.seed, wiring, grid)
    if state_digest(fresh.state_dict()) != connector.init_digest:
        yield "connector.init_digest", f"is not that of {connector.kind} initialized with seed {run.record.seed}"


def check_training_log(name: str, run: Run) -> Iterator[Finding]:
    """Yield a finding if the training log does not match the record: missing steps, or another learning rate.

    Args:
        name: the run's name in findings.
        run: the run.
    """
    if run.record.num_steps is None or run.record.images is not None or not run.files.is_scored:
        return  # the version recorded no steps, or this is an evaluation, or the run is unfinished
    try:
        problem = _log_problem(run, run.record.num_steps)
    except DataError as error:
        problem = str(error)
    if problem:
        message = f"the training log does not match the record: {problem}"
        yield Finding("training-log", "error", (name,), message, {"problem": problem})


def _log_problem(run: Run, num_steps: int) -> str:
    rows = run.training_rows
    if not rows:
        return "it is missing or empty" if num_steps else ""
    for row_number, row in enumerate(rows):
        if row_number >= num_steps:
            return f"it continues after {num_steps:,} steps"
        if row.get("step") != row_number:
            return f"row {row_number} is of step {row.get('step')}"
    if len(rows) < num_steps:
        return f"it ends after {len(rows):,} of {num_steps:,} steps"
    if (step := next((step for step, row in enumerate(rows) if row.get("loss") is None), None)) is not None:
        return f"step {step} has no loss"
    return _rate_problem(rows, run.record, num_steps)


def _rate_problem(rows: list[dict[str, Any]], record: RunRecord, num_steps: int) -> str:
    """Return the first step with a learning rate other than the recipe's; empty if there is none."""
    peak, warmup = record.setting("lr"), record.setting("warmup_fraction")
    if peak is None or warmup is None:
        return ""
    align = Align.model_validate(record.setting("align") or {}) if record.stages == "align-then-tune" else None
    for step, row in enumerate(rows):
        expected, rate = staged_rate(step, num_steps, peak, warmup, align), row.get("lr")
        if not isinstance(rate, int | float) or not math.isclose(rate, expected, rel_tol=1e-6, abs_tol=1e-15):
            return f"step {step} has a learning rate of {rate}, but {expected:.6g} according to the recipe"
    return ""


def _is_of_this_code(run: Run) -> bool:
    """Whether the run was made by this version of the code, so that its initialization can be reproduced."""
    return run.environment.code_version == code_version()


class _TextConfig(Recorded):
    hidden_size: int | None = None


class _ModelConfig(Recorded):
    """The parts of a trained VLM's ``config.json`` that are needed here."""

    text_config: _TextConfig = _TextConfig()
