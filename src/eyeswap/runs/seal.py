"""Do a run's files still say what happened? A seal over them, and records checked against what they can be made from.

When a run ends, ``seal.json`` takes down size and sha256 of its records, weights, answers and scores. Whoever can write
the folder can write the seal too, so the records are also held against what does not lie in the run: the study, the
catalog, the packaged weights, and a connector drawn again from its seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eyeswap.backbones import catalog
from eyeswap.backbones.state import state_digest
from eyeswap.errors import DataError
from eyeswap.files import digest, read_json, sha256_of, write_json
from eyeswap.runs.environment import code_version
from eyeswap.runs.folder import SEED_PREFIX, RunFolder
from eyeswap.runs.record import Finding, at
from eyeswap.vlm.connector import build_connector

LARGE_BYTES = 1 << 28  # files beyond this are compared by size alone, so that an audit takes seconds
_MOST_CONNECTOR = 50_000_000  # parameters of a connector that is drawn again


def write_seal(run_dir: Path) -> None:
    """Take down size and sha256 of everything that a finished run consists of."""
    files = RunFolder(run_dir)
    about = {
        path.relative_to(run_dir).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files.sealed_files()
    }
    write_json(files.seal, about)


def check_files(name: str, run_dir: Path, record: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what does not fit in a run's folder.

    Args:
        name: the run's name in findings.
        run_dir: its folder.
        record: what it recorded, see `eyeswap.runs.record.read_record`.

    Raises:
        DataError: if the seal or the study's record is damaged.
    """
    files = RunFolder(run_dir)
    if files.seal.is_file():
        changed = list(_changed(run_dir))
        if changed:
            message = f"files changed since the run ended: {', '.join(changed)}"
            yield Finding("changed-files", "error", (name,), message, {"changed": changed})
    elif files.is_scored:
        message = "the run was never sealed, so nothing shows whether its files were changed since it ended"
        yield Finding("changed-files", "note", (name,), message, {"changed": None})
    told = dict(contradictions(run_dir, record))
    if told:
        words = "; ".join(f"{place} {why}" for place, why in told.items())
        yield Finding("contradiction", "error", (name,), f"the record contradicts itself or its sources: {words}", told)


def contradictions(run_dir: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield places in a run's record that cannot be true, each with the reason."""
    if "recipe" in record and digest(record["recipe"]) != record["recipe_digest"]:
        yield "recipe_digest", "is not that of the recipe beside it"
    files = RunFolder(run_dir)
    if files.is_of_a_study:
        for place, told in (("arm", run_dir.parent.name), ("seed", run_dir.name.removeprefix(SEED_PREFIX))):
            if str(record[place]) != told:
                yield place, f"is {record[place]}, its folder says {told}"
        study = files.study.study
        if study.is_file():
            yield from _against_study(read_json(study), record)
    yield from _against_catalog(record)
    yield from _against_connector(run_dir, record)


def _changed(run_dir: Path) -> Iterator[str]:
    """Yield the sealed files that are here and are others; files that were left behind are no change."""
    path = RunFolder(run_dir).seal
    seal = read_json(path)
    if not isinstance(seal, dict):
        raise DataError(f"{path}: expected an object")
    for name, about in seal.items():
        file = run_dir / name
        if ".." in Path(name).parts or Path(name).is_absolute() or not isinstance(about, dict):
            raise DataError(f"{path}: {name}: no file of a run")
        if not file.is_file():
            continue
        size = file.stat().st_size
        if size != about.get("bytes") or (size <= LARGE_BYTES and sha256_of(file) != about.get("sha256")):
            yield name


def _against_study(study: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "recipe" in record and study.get("recipe") != record["recipe"]:
        yield "recipe", "is not that of study.json"
    arm = study.get("arms", {}).get(record["arm"])
    if arm is None:
        return  # another part of the study, pooled from elsewhere
    connector = arm.get("connector") or at(study, "recipe.connector")
    if at(record, "connector.kind") not in (None, connector):
        yield "connector.kind", f"is {at(record, 'connector.kind')}, study.json says {connector}"
    wanted, found = _canonical(arm["backbone"]), at(record, "backbone.name")
    if found not in (None, wanted, arm["backbone"]):
        yield "backbone.name", f"is {found}, study.json says {wanted}"


def _against_catalog(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Compare with the recorded size of a catalog entry, and with its weights where they are known."""
    entry = catalog.find(str(at(record, "backbone.name")))
    if entry is None:
        return
    width = at(record, "backbone.embed_dim")
    same_tap = at(record, "backbone.tap") == entry.model_dump(mode="json")["tap"]
    if entry.size is not None and same_tap and width not in (None, entry.size.width):
        yield "backbone.embed_dim", f"is {width}, that of {entry.name} is {entry.size.width}"
    known = entry.weights.sha256
    if known is None and entry.weights.packaged and _same_code(record) and entry.weights.packaged_path().is_file():
        known = sha256_of(entry.weights.packaged_path())
    found = at(record, "backbone.weights_sha256")
    if known is not None and found not in (None, known):
        yield "backbone.weights_sha256", f"is not that of the weights of {entry.name}"


def _against_connector(run_dir: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Draw the connector's first weights again from the seed, where that is a matter of a moment."""
    kind, told = at(record, "connector.kind"), at(record, "connector.init_digest")
    width, config = at(record, "backbone.embed_dim"), RunFolder(run_dir).model_config
    if kind is None or told is None or width is None or not config.is_file() or not _same_code(record):
        return
    llm_width = at(read_json(config), "text_config.hidden_size")
    if not isinstance(llm_width, int) or (4 * width + llm_width) * (llm_width + width) > _MOST_CONNECTOR:
        return
    wiring = "as-published" if at(record, "backbone.frozen_mode") == "train" else "controlled"
    connector = build_connector(str(kind), int(width), llm_width, int(record["seed"]), wiring)
    if state_digest(connector.state_dict()) != told:
        yield "connector.init_digest", f"is not that of a {kind} drawn with seed {record['seed']}"


def _same_code(record: Mapping[str, Any]) -> bool:
    """Whether a run was made by this very code, so that what it made can be made again."""
    return bool(at(record, "environment.code_version") == code_version())


def _canonical(backbone: str) -> str:
    entry = catalog.find(backbone)
    return backbone if entry is None else entry.name
