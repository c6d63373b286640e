"""The runs of a study and the state of each, read from the run folders alone.

Training and evaluation are decided separately. The *model* of a run (`eyeswap.runs.identity`) decides training: a
folder that holds a different model is refused. The *benchmarks* decide evaluation: those a trained run has not been
asked yet are asked, those no longer in the study stay in the folder, and nothing is trained again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from eyeswap.backbones import catalog
from eyeswap.backbones.fetch import local_path
from eyeswap.backbones.name import BackboneName
from eyeswap.connector_name import ConnectorName
from eyeswap.digests import folder_sha256, known_sha256
from eyeswap.errors import CheckpointError, DataError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.benchmark import Benchmark
from eyeswap.files import canonical_json, digest
from eyeswap.planning.spec import Study
from eyeswap.recipe import FolderData, Recipe
from eyeswap.runs.folder import RunFolder, StudyFolder
from eyeswap.runs.identity import SETTINGS, Change, ModelIdentity, backbone_identity, in_words
from eyeswap.runs.record import AskedBenchmark, RunRecord, read_index
from eyeswap.runs.recorded import read_record
from eyeswap.shipped import llm_source

State = Literal["new", "unfinished", "done", "changed"]


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, and its run folder."""

    study: Study
    arm: str
    seed: int
    folder: Path

    @property
    def files(self) -> RunFolder:
        """The paths of all files in the run folder."""
        return RunFolder(self.folder)

    @property
    def recipe(self) -> Recipe:
        """The recipe as it applies to the arm."""
        return self.study.recipe_of(self.arm)

    @property
    def record(self) -> RunRecord | None:
        """The record of the run in the folder; None before the run has begun.

        Raises:
            DataError: if the record is damaged or of another arm: a folder was copied or an arm renamed.
        """
        if not self.files.is_begun:
            return None
        record = read_record(self.files.record, RunRecord)
        if record.arm != self.arm:
            remedy = "give the arm its old name, or remove the folder"
            raise DataError(f"{self.files.record}: a run of arm {record.arm!r} in the folder of {self.arm!r}; {remedy}")
        return record

    @property
    def model(self) -> ModelIdentity:
        """Everything that determines the run's trained model, with the digests of weights that are on this machine."""
        recipe, arm, own = self.study.recipe, self.study.arms[self.arm], self.recipe
        name, connector = BackboneName.parse(arm.backbone), self._connector
        data = Path(own.data.folder) / own.data.instruction if isinstance(own.data, FolderData) else None
        return ModelIdentity(
            recipe={**recipe.model_dump(mode="json"), "connector": ConnectorName.parse(recipe.connector).identity},
            arm={
                "backbone": backbone_identity(arm.backbone),
                "connector": connector.identity,
                "wiring": self.study.wiring_of(self.arm),
                "tap": arm.tap,
                "geometry": arm.geometry,
                **({} if arm.weights is None else {"weights": Path(arm.weights).name}),
                **{key: value for key, value in arm.overrides.items() if key in SETTINGS},
            },
            seed=self.seed,
            data=known_sha256(data) if data is not None and data.is_file() else None,
            weights={
                "backbone": _backbone_weights(name) if arm.weights is None else None,
                **({} if arm.weights is None else {"backbone_file": known_sha256(Path(arm.weights))}),
                "encoder_file": name.file_sha256,
                "llm": _llm_weights(own.llm),
                **({} if connector.own is None else {"connector_file": connector.own.sha256}),
            },
        )

    @cached_property
    def digest(self) -> str:
        """The sha256 (hex) of the run's model as the study file declares it, without the bytes of any weights."""
        arm = self.study.arms[self.arm]
        name = BackboneName.parse(arm.backbone)
        own = self._connector.own
        declared = {
            "backbone": [
                backbone_identity(arm.backbone),
                name.file_sha256,
                *([] if arm.weights is None else [known_sha256(Path(arm.weights))]),
            ],
            "overrides": arm.overrides if own is None else {**arm.overrides, "connector": [own.identity, own.sha256]},
            "seed": self.seed,
        }
        return digest({"recipe": self.study.recipe.model_dump(mode="json"), **declared})

    @property
    def _connector(self) -> ConnectorName:
        return ConnectorName.parse(self.study.connector_of(self.arm))

    @cached_property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """The study's benchmarks."""
        return tuple(get_benchmark(name) for name in self.study.benchmarks)

    def changes(self, now: ModelIdentity | None = None) -> list[Change]:
        """Return how the model of this plan differs from the one in the folder; empty before the run has begun.

        Args:
            now: the model of this plan, if the caller knows more about it than the plan does.
        """
        record, now = self.record, now or self.model
        if record is None:
            return []
        if record.model is not None:
            return record.model.changes_to(now)
        return _changes_of_old(self, record, now)

    def unasked(self) -> list[str]:
        """Return the names of the study's benchmarks that the run has not yet been asked in the study's form."""
        index = read_index(self.files.benchmarks) if self.files.benchmarks.is_file() else {}
        is_old_same = _is_asked_by_old_version(self, self.record)
        return [
            benchmark.name
            for benchmark in self.benchmarks
            if not self._is_asked(benchmark, index.get(benchmark.name), is_old_same)
        ]

    def state(self) -> State:
        """Return whether the run is new, unfinished, done, or holds a different model ("changed").

        Raises:
            DataError: if a file of the run is damaged.
        """
        if not self.files.is_begun:
            return "new"
        if self.changes():
            return "changed"
        return "done" if self.files.is_scored and not self.unasked() else "unfinished"

    def _is_asked(self, benchmark: Benchmark, asked: AskedBenchmark | None, is_old_same: bool) -> bool:
        if asked is None or not self.files.predictions_of(benchmark.name).is_file():
            return False
        if asked.identity is None:  # written by a version that recorded one digest of all benchmarks together
            return is_old_same
        same_frame = asked.box_frame in (None, self.study.recipe.test_box_frame)
        return (asked.identity, asked.subset) == (benchmark.identity, self.study.subset) and same_frame


def plan_runs(study: Study, runs_dir: Path) -> list[PlannedRun]:
    """Return every run of a study, seed by seed and within a seed arm by arm, so that early results compare arms."""
    return [
        PlannedRun(study, arm, seed, StudyFolder(runs_dir / study.name).run(arm, seed).path)
        for seed in study.seeds
        for arm in study.arms
    ]


def refuse_changed(planned: Sequence[PlannedRun], study_file: Path) -> None:
    """Check that no run folder holds the model of another version of the study.

    Raises:
        SpecError: naming the first folder that does, and what changed.
    """
    for run in planned:
        refuse(run, run.changes(), str(study_file))


def refuse(run: PlannedRun, changes: Sequence[Change], source: str) -> None:
    """Refuse to continue a run whose model has changed.

    Raises:
        SpecError: if there are changes.
    """
    if changes:
        raise SpecError(
            f"{run.folder}: holds a run of another version of {source}: {in_words(changes)}; undo the change, or train "
            "again with another --runs (or after deleting this folder)"
        )


def _backbone_weights(name: BackboneName) -> str | None:
    """Return the digest of a catalog entry's weights: of the file if it is on this machine, else as declared."""
    entry = catalog.find(str(name)) if name.kind == "catalog" else None
    if entry is None:
        return None
    path = entry.weights.packaged_path() if entry.weights.packaged else local_path(entry.weights)
    return known_sha256(path) if path.is_file() else entry.weights.sha256


def _llm_weights(name: str) -> str | None:
    """Return the digest of a language model's folder; None if it is not on this machine."""
    source = llm_source(name)
    if Path(source).is_dir():
        return folder_sha256(Path(source))
    from eyeswap.vlm.hub import local_folder

    with contextlib.suppress(CheckpointError):
        return folder_sha256(local_folder(source))
    return None


def _changes_of_old(run: PlannedRun, record: RunRecord, now: ModelIdentity) -> list[Change]:
    """Return the changes since a run of a version that recorded one digest of training and benchmarks together."""
    changes = _model_of_old_record(record, now).changes_to(now)
    if changes or _is_known_digest(run, record):
        return changes
    arm = run.study.arms[run.arm]
    name = BackboneName.parse(arm.backbone)
    if name.kind == "catalog":
        entry = catalog.entry(str(name)).wired(run.study.wiring_of(run.arm))
        entry = entry.with_changes(tap=arm.tap, geometry=arm.geometry)
        resolved = {"tap": entry.model_dump(mode="json")["tap"], "geometry": entry.geometry.canonical()}
        recorded = {"tap": record.backbone.tap, "geometry": record.backbone.geometry}
        pairs = [Change(f"arm.{key}", recorded[key], value) for key, value in resolved.items()]
        return [pair for pair in pairs if canonical_json(pair.before) != canonical_json(pair.now)]
    field = "run_digest (of the encoder's file, tap, geometry, benchmarks and subset)"
    return [Change(field, record.run_digest, _old_digest(run, record, run.study.benchmarks))]


def _model_of_old_record(record: RunRecord, now: ModelIdentity) -> ModelIdentity:
    """Return as much of the model's identity as an old record contains."""
    name = record.backbone.name
    arm: dict[str, Any] = {
        "backbone": None if name is None else backbone_identity(name),
        "connector": record.connector.kind,
        "wiring": {"eval": "controlled", "train": "as-published"}.get(record.backbone.frozen_mode or ""),
    }
    return ModelIdentity(
        recipe=now.recipe if record.recipe is None else record.recipe,
        arm={key: value for key, value in arm.items() if value is not None},
        seed=record.seed,
        data=None if (record.left_out or {}).get("records") else record.data_digest,
        weights={"backbone": record.backbone.weights_sha256, "llm": record.llm.sha256},
    )


def _is_known_digest(run: PlannedRun, record: RunRecord) -> bool:
    """Whether an old record's digest is that of this plan, or of this plan with the benchmarks of the record."""
    return record.run_digest is not None and record.run_digest in (
        _old_digest(run, record, run.study.benchmarks),
        _old_digest(run, record, record.benchmarks or ()),
    )


def _is_asked_by_old_version(run: PlannedRun, record: RunRecord | None) -> bool:
    """Whether an old run's questions were asked in the form that the study asks for now."""
    if record is None or record.model is not None or not _is_known_digest(run, record):
        return False
    return record.test_box_frame in (None, run.study.recipe.test_box_frame)


def _old_digest(run: PlannedRun, record: RunRecord, benchmarks: Sequence[str]) -> str | None:
    """Return the digest that versions before the model digest recorded; None if a benchmark no longer exists.

    It uses the recipe as recorded then; differences from the present recipe are found field by field instead.
    """
    backbone = run.study.arms[run.arm].backbone
    try:
        identities = [get_benchmark(name).identity for name in benchmarks]
    except (SpecError, DataError):
        return None
    return digest(
        {
            "recipe": run.study.recipe.model_dump(mode="json") if record.recipe is None else record.recipe,
            "backbone": BackboneName.parse(backbone).file_sha256 or backbone,
            "overrides": run.study.arms[run.arm].overrides,
            "seed": run.seed,
            "benchmarks": identities,
            "subset": run.study.subset,
        }
    )
