"""Do a run's records say what happened? Its seal, and its records held against what they can be made from again.

The records are compared with the study, the catalog, the packaged weights, and a connector drawn again from its seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eyeswap.audit.finding import Finding
from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.backbones.state import state_digest
from eyeswap.files import digest, sha256_of
from eyeswap.recipe import Wiring
from eyeswap.results.run import Run
from eyeswap.runs.folder import SEED_PREFIX
from eyeswap.runs.identity import backbone_identity, training_fields
from eyeswap.runs.record import COLOUR_KEYS, Geometry, StudyRecord
from eyeswap.runs.recorded import Recorded, read_record
from eyeswap.runs.seal import changed_files, missing_files, unsealed_files
from eyeswap.versions import code_version
from eyeswap.vlm.connector import build_connector

_MOST_CONNECTOR = 50_000_000  # parameters of a connector that is drawn again


def check_files(name: str, run: Run) -> Iterator[Finding]:
    """Yield what does not fit in a run's folder.

    Args:
        name: the run's name in findings.
        run: the run.

    Raises:
        DataError: if the seal or the study's record is damaged.
    """
    if run.files.seal.is_file():
        yield from _seal_findings(name, run)
    elif run.files.is_scored:
        message = "the run was never sealed, so nothing shows whether its files were changed since it ended"
        yield Finding("changed-files", "note", (name,), message, {"changed": None})
    reasons = dict(contradictions(run))
    if reasons:
        words = "; ".join(f"{place} {why}" for place, why in reasons.items())
        message = f"the record contradicts itself or its sources: {words}"
        yield Finding("contradiction", "error", (name,), message, reasons)


def _seal_findings(name: str, run: Run) -> Iterator[Finding]:
    checks = {
        "changed": ("files changed since the run ended", changed_files),
        "missing": ("files are missing that the run ended with", missing_files),
        "unsealed": ("files of the run are not in its seal", unsealed_files),
    }
    for kind, (words, check) in checks.items():
        files = list(check(run.folder))
        if files:
            yield Finding("changed-files", "error", (name,), f"{words}: {', '.join(files)}", {kind: files})


def contradictions(run: Run) -> Iterator[tuple[str, str]]:
    """Yield places in a run's record that cannot be true, each with the reason."""
    record = run.record
    if record.recipe is not None and digest(record.recipe) != record.recipe_digest:
        yield "recipe_digest", "is not that of the recipe beside it"
    if run.files.is_of_a_study:
        arm, seed = run.folder.parent.name, run.folder.name.removeprefix(SEED_PREFIX)
        if record.arm != arm:
            yield "arm", f"is {record.arm}, its folder says {arm}"
        if str(record.seed) != seed:
            yield "seed", f"is {record.seed}, its folder says {seed}"
        if run.files.study.study.is_file():
            yield from _against_study(run, read_record(run.files.study.study, StudyRecord))
    yield from _against_catalog(run)
    yield from _against_connector(run)


def _against_study(run: Run, study: StudyRecord) -> Iterator[tuple[str, str]]:
    record = run.record
    if record.recipe is not None and training_fields(study.recipe or {}) != training_fields(record.recipe):
        yield "recipe", "is not that of study.json"
    arm = study.arms.get(record.arm)
    if arm is None:
        return  # another part of the study, pooled from elsewhere
    connector = arm.connector or (study.recipe or {}).get("connector")
    if record.connector.kind not in (None, connector):
        yield "connector.kind", f"is {record.connector.kind}, study.json says {connector}"
    if record.backbone.name is None or arm.backbone is None:
        return
    recorded, wanted = map(backbone_identity, (record.backbone.name, arm.backbone))
    if recorded != wanted:
        yield "backbone.name", f"is {recorded}, study.json says {wanted}"


def _against_catalog(run: Run) -> Iterator[tuple[str, str]]:
    """Compare with width, parameters and token grid of a catalog entry, and with its weights where they are known."""
    backbone = run.record.backbone
    entry = None if backbone.name is None else catalog.find(backbone.name)
    if entry is None:
        return
    if entry.size is not None and backbone.tap == entry.model_dump(mode="json")["tap"]:
        same_canvas = backbone.canvas_geometry == _canvas_geometry(entry)
        sizes: dict[str, tuple[int | Sequence[int] | None, int | Sequence[int]]] = {
            "embed_dim": (backbone.embed_dim, entry.size.width),
            "num_parameters": (backbone.num_parameters, entry.size.parameters),
            "token_grid": (backbone.token_grid if same_canvas else None, entry.size.tokens),
        }
        for key, (recorded, expected) in sizes.items():
            if recorded not in (None, expected):
                yield f"backbone.{key}", f"is {_in_words(recorded)}, that of {entry.name} is {_in_words(expected)}"
    known = entry.weights.sha256
    if known is None and entry.weights.packaged and _is_of_this_code(run) and entry.weights.packaged_path().is_file():
        known = sha256_of(entry.weights.packaged_path())
    if known is not None and backbone.weights_sha256 not in (None, known):
        yield "backbone.weights_sha256", f"is not that of the weights of {entry.name}"


def _canvas_geometry(entry: BackboneEntry) -> Geometry:
    """Return where an entry puts pixels, as a record has it."""
    return {key: value for key, value in entry.geometry.canonical().items() if key not in COLOUR_KEYS}


def _in_words(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else "x".join(map(str, value))


def _against_connector(run: Run) -> Iterator[tuple[str, str]]:
    """Draw the connector's first weights again from the seed, where that is a matter of a moment."""
    connector, backbone = run.record.connector, run.record.backbone
    width, config = backbone.embed_dim, run.files.model_config
    if connector.kind is None or connector.init_digest is None or width is None:
        return
    if not config.is_file() or not _is_of_this_code(run):
        return
    llm_width = read_record(config, _ModelConfig).text_config.hidden_size
    if llm_width is None or (4 * width + llm_width) * (llm_width + width) > _MOST_CONNECTOR:
        return
    wiring: Wiring = "as-published" if backbone.frozen_mode == "train" else "controlled"
    drawn = build_connector(connector.kind, width, llm_width, run.record.seed, wiring)
    if state_digest(drawn.state_dict()) != connector.init_digest:
        yield "connector.init_digest", f"is not that of a {connector.kind} drawn with seed {run.record.seed}"


def _is_of_this_code(run: Run) -> bool:
    """Whether a run was made by this very code, so that what it made can be made again."""
    return run.environment.code_version == code_version()


class _TextConfig(Recorded):
    hidden_size: int | None = None


class _ModelConfig(Recorded):
    """What is needed of the ``config.json`` of a trained VLM."""

    text_config: _TextConfig = _TextConfig()
