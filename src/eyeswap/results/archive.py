"""Export a study's results to one file, and import such a file into the runs of another machine.

An archive is a zip of records, predictions, scores and reports, and a manifest with the size and sha256 of every
file. Weights, tokens and data are not included, and absolute paths are cut to their last name
(`eyeswap.results.outgoing`). Equal results give equal bytes, and so equal digests. Archives are untrusted: only file
names of the known layout are accepted, no path may leave the folder, no file may unpack to more than its stated size,
nothing is executed, and the scores must follow from the predictions. A run appears in the study's folder by rename,
complete or not at all. The report in an archive is for readers who unpack it by hand and is not imported: the merged
study needs a report of its own, and an HTML page from elsewhere does not belong among trusted ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import stat
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eyeswap.errors import DataError, SpecError
from eyeswap.files import atomic_path, parse_json, read_json, sha256_of, write_json
from eyeswap.results.outgoing import changed_on_leaving
from eyeswap.results.run import Run
from eyeswap.results.verify import problems_of, score_differences
from eyeswap.runs.folder import SEED_PREFIX, RunFolder, StudyFolder
from eyeswap.runs.privacy import without_paths
from eyeswap.unpack import Entry, open_archive, refuse_hostile

MANIFEST = "manifest.json"
FORMAT = 1
MAX_FILES = 20_000
MAX_FILE_BYTES = 2 << 30
MAX_TOTAL_BYTES = 16 << 30
MAX_RATIO, SMALL_BYTES = 100, 64 << 20  # above this size, an archive with a larger compression ratio is a zip bomb
MAX_ROWS = 5_000_000  # predictions for a benchmark; the largest published one has 214,354
SUFFIX = ".eyeswap.zip"

_NAME = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_RUN = rf"{_NAME}/{SEED_PREFIX}[0-9]+"
_IN_RUN, _IN_STUDY = RunFolder(Path()), StudyFolder(Path())
_SINGLE = (_IN_RUN.record, _IN_RUN.environment, _IN_RUN.scores, _IN_RUN.seal, _IN_RUN.training_log)
_RUN_FILE = (
    rf"{_RUN}/(?:{'|'.join(re.escape(str(path)) for path in _SINGLE)}"
    rf"|{_IN_RUN.predictions}/[a-z0-9_+.-]+\.(?:parquet|json))"
)
_STUDY_FILE = (
    rf"{re.escape(str(_IN_STUDY.study))}|analysis\.json"
    rf"|{_IN_STUDY.report}/[a-z0-9_-]+\.(?:html|md|csv|json|tex|svg|png)"
)
_KNOWN = re.compile(rf"(?:{_STUDY_FILE}|{_RUN_FILE})")
_MERGED = ("arms", "seeds")  # the keys in which two parts of one study may differ


@dataclass(frozen=True)
class Imported:
    """The outcome of an import.

    Attributes:
        folder: the study's folder.
        digest: sha256 of the archive's manifest; equal digests mean equal results.
        added: runs that are new here.
        known: runs that already existed here with identical results.
    """

    folder: Path
    digest: str
    added: list[str]
    known: list[str]


def export_study(study_dir: Path, archive: Path) -> str:
    """Write a study's results to one file.

    Args:
        study_dir: the study's folder; unfinished runs are left out.
        archive: the file to write, replaced if it exists.

    Returns:
        The digest of the archive's manifest.

    Raises:
        SpecError: if the folder contains no study, none of its runs is finished, or one of them fails verification.
    """
    if not StudyFolder(study_dir).study.is_file():
        raise SpecError(f"{study_dir}: not a study (study.json is missing); pass a folder such as runs/quickstart")
    finished = {run.path for run in StudyFolder(study_dir).runs() if run.is_scored}
    finished |= {seal.parent for seal in study_dir.glob(f"*/{SEED_PREFIX}*/{_IN_RUN.seal}")}  # whatever else is gone
    if not finished:
        raise SpecError(f"{study_dir}: no finished run to export; see `eyeswap study status`")
    for run in sorted(finished):
        for problem in problems_of(run):
            raise SpecError(f"{run}: not exported, verification failed: {problem}; see `eyeswap audit {study_dir}`")
    paths = {path.relative_to(study_dir).as_posix(): path for path in sorted(study_dir.rglob("*")) if path.is_file()}
    packed = {
        name: path
        for name, path in paths.items()
        if _KNOWN.fullmatch(name) and (not re.match(_RUN, name) or any(run in path.parents for run in finished))
    }
    changed = changed_on_leaving(packed)
    files = {
        name: {"bytes": len(changed[name]), "sha256": hashlib.sha256(changed[name]).hexdigest()}
        if name in changed
        else {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in packed.items()
    }
    manifest = {"format": FORMAT, "study": study_dir.resolve().name, "files": files}
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packer:
        content = _canonical(manifest)
        packer.writestr(_entry(MANIFEST), content)
        for name, path in packed.items():
            with (
                io.BytesIO(changed[name]) if name in changed else path.open("rb") as source,
                packer.open(_entry(name), "w") as target,
            ):
                shutil.copyfileobj(source, target)
    return hashlib.sha256(content).hexdigest()


def import_study(archive: Path, runs_dir: Path) -> Imported:
    """Verify an archive and merge its runs into the study of the same name.

    Raises:
        DataError: if the archive is damaged, was modified, or contains files that archives do not have.
        SpecError: if a different study of that name exists, or a run exists with different results.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=runs_dir, prefix=".import-"))
    try:
        manifest, digest = _unpack(archive, workplace)
        folder = runs_dir / manifest["study"]
        study = _merged_study(archive, workplace, folder)
        runs = sorted({"/".join(name.split("/")[:2]) for name in manifest["files"] if re.match(_RUN, name)})
        known = [run for run in runs if (folder / run).exists()]
        for run in known:
            _check_same(archive, manifest, folder, run)
        added = [run for run in runs if run not in known]
        for run in added:
            _check_scores(archive, workplace, run)
        for run in added:
            (folder / run).parent.mkdir(parents=True, exist_ok=True)
            (workplace / run).rename(folder / run)
        write_json(StudyFolder(folder).study, study)
        imports = StudyFolder(folder).imports
        sources = read_json(imports) if imports.is_file() else []
        if all(source["digest"] != digest for source in sources):
            write_json(imports, [*sources, {"digest": digest, "file": archive.name, "runs": runs}])
    except OSError as problem:
        raise DataError(f"{archive}: {problem.strerror or problem} ({problem.filename or runs_dir})") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return Imported(folder, digest, added, known)


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry without time and owner, so that equal results give equal bytes."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, indent=1).encode() + b"\n"


def _unpack(archive: Path, workplace: Path) -> tuple[dict[str, Any], str]:
    """Unpack an archive, checking each file against the manifest; return the manifest and its digest."""
    try:
        with open_archive(archive) as entries:
            manifest, digest = _manifest(archive, entries)
            refuse_hostile(archive, entries)
            by_name = {entry.name: entry for entry in entries}
            for name, stated in manifest["files"].items():
                if by_name[name].num_bytes > stated["bytes"]:
                    raise DataError(f"{archive}: {name} unpacks to more bytes than the manifest states; refused")
                path = workplace / name
                path.parent.mkdir(parents=True, exist_ok=True)
                by_name[name].copy(path)
                if sha256_of(path) != stated["sha256"]:
                    raise DataError(f"{archive}: {name} does not match the manifest: the archive was modified")
                _check_content(archive, name, path)
    except FileNotFoundError:
        raise DataError(f"{archive}: no such file") from None
    return manifest, digest


def _manifest(archive: Path, entries: Sequence[Entry]) -> tuple[dict[str, Any], str]:
    """Read the manifest and compare it with what the archive lists."""
    listed = next((entry for entry in entries if entry.name == MANIFEST), None)
    if listed is None or listed.num_bytes > 64 << 20:
        raise DataError(f"{archive}: not an eyeswap archive: it has no {MANIFEST}")
    content = listed.read()
    try:
        manifest = parse_json(content.decode())
        files = manifest["files"]
        is_valid = manifest["format"] == FORMAT and re.fullmatch(_NAME, manifest["study"]) is not None
        sizes = [stated["bytes"] for stated in files.values()]
        is_valid = is_valid and all(isinstance(size, int) and 0 <= size <= MAX_FILE_BYTES for size in sizes)
    except (ValueError, KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise DataError(f"{archive}: {MANIFEST} does not have format {FORMAT}; was it written by a newer eyeswap?")
    for name in files:
        if not _KNOWN.fullmatch(name):
            raise DataError(f"{archive}: contains {name!r}, which is not a file of a study; refused")
    if sorted(entry.name for entry in entries) != sorted([MANIFEST, *files]):
        raise DataError(f"{archive}: its files are not those of its manifest: the archive was modified")
    is_bomb = sum(sizes) > max(SMALL_BYTES, MAX_RATIO * archive.stat().st_size)
    if len(files) > MAX_FILES or sum(sizes) > MAX_TOTAL_BYTES or is_bomb:
        raise DataError(f"{archive}: unpacks to {len(files)} files of {sum(sizes):,} bytes; refused as too large")
    return manifest, hashlib.sha256(content).hexdigest()


def _check_content(archive: Path, name: str, path: Path) -> None:
    """Refuse a file that is malformed or too large."""
    try:
        if path.suffix == ".json":
            parse_json(path.read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            num_rows = pq.read_metadata(path).num_rows
            if num_rows > MAX_ROWS:
                raise DataError(f"{archive}: {name} has {num_rows:,} rows; refused as too large")
    except (ValueError, RecursionError, pa.ArrowException) as problem:
        raise DataError(f"{archive}: {name} cannot be read: {str(problem).splitlines()[0]}") from None


def _merged_study(archive: Path, workplace: Path, folder: Path) -> dict[str, Any]:
    """Return the study with the arms and seeds of both sides, or refuse to merge different studies."""
    theirs = _study_of(archive, workplace)
    if not StudyFolder(folder).study.is_file():
        return theirs
    ours: dict[str, Any] = read_json(StudyFolder(folder).study)
    left = without_paths(ours)
    for key in sorted(set(ours) | set(theirs)):
        if key not in _MERGED and theirs.get(key) not in (ours.get(key), left.get(key)):
            there, here = _difference(key, theirs.get(key), left.get(key))
            raise SpecError(f"{archive}: {there}, but {here} in {folder}; use another --runs folder")
    for arm in set(ours["arms"]) & set(theirs["arms"]):
        if theirs["arms"][arm] not in (ours["arms"][arm], left["arms"][arm]):
            there, here = _difference(f"arms.{arm}", theirs["arms"][arm], left["arms"][arm])
            raise SpecError(f"{archive}: {there}, but {here} in {folder}; use another --runs folder")
    arms, seeds = {**theirs["arms"], **ours["arms"]}, [*ours["seeds"]]
    arms = {arm: arms[arm] for arm in dict.fromkeys([*ours["arms"], *theirs["arms"]])}
    return {**ours, "arms": arms, "seeds": [*seeds, *(seed for seed in theirs["seeds"] if seed not in seeds)]}


def _difference(path: str, theirs: Any, ours: Any) -> tuple[str, str]:
    """Return the first key in which two values differ, with their value as a phrase, and our value."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        key = next(key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key))
        return _difference(f"{path}.{key}", theirs.get(key), ours.get(key))
    there, here = (textwrap.shorten(json.dumps(value, ensure_ascii=False), 80) for value in (theirs, ours))
    return f"{path} is {there}", here


def _study_of(archive: Path, workplace: Path) -> dict[str, Any]:
    path = StudyFolder(workplace).study
    study = read_json(path) if path.is_file() else None
    if (
        not isinstance(study, dict)
        or not isinstance(study.get("arms"), dict)
        or not isinstance(study.get("seeds"), list)
    ):
        raise DataError(f"{archive}: contains no valid study.json")
    return study


def _check_same(archive: Path, manifest: dict[str, Any], folder: Path, run: str) -> None:
    """Raise unless a run in the archive has the same results as the existing run, as that would be exported."""
    names = list(_result_files(manifest, run))
    existing = {name: folder / name for name in names if (folder / name).is_file()}
    exported = {name: hashlib.sha256(content).hexdigest() for name, content in changed_on_leaving(existing).items()}
    for name in names:
        sums = (sha256_of(existing[name]), exported.get(name)) if name in existing else ()
        if manifest["files"][name]["sha256"] not in sums:
            raise SpecError(
                f"{archive}: {name} differs from the one in {folder}: the same run with different results; "
                "use another --runs folder to keep both"
            )


def _check_scores(archive: Path, workplace: Path, run: str) -> None:
    """Raise unless the scores in the archive follow from the predictions in it."""
    try:
        differences = score_differences(Run(workplace / run))
    except DataError as problem:
        raise DataError(f"{archive}: {str(problem).replace(f'{workplace}/', '')}") from None
    for name, difference in differences.items():
        raise DataError(f"{archive}: {run}: scores.json: {name}: {difference}; refused")


def _result_files(manifest: dict[str, Any], run: str) -> Iterator[str]:
    """Yield the files of a run that hold its results: all but the environment and the log, which has times."""
    for name in manifest["files"]:
        if name.startswith(f"{run}/") and not name.endswith((str(_IN_RUN.environment), str(_IN_RUN.training_log))):
            yield name
