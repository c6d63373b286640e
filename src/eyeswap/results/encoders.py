"""The encoders of finished studies with what their VLMs scored, and the probe of each: what predictors are tried on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyeswap.backbones import catalog
from eyeswap.errors import DataError, SpecError
from eyeswap.files import canonical_json, digest
from eyeswap.planning.spec import Arm, Study, kebab
from eyeswap.results.published import published_accuracy

if TYPE_CHECKING:
    from eyeswap.backbones.weights import LoadedBackbone
    from eyeswap.probing.labelled import LabelledImages
    from eyeswap.progress import Progress


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone as arms of studies read it.

    Attributes:
        study: a study that has it.
        arm: its arm there.
        record: the backbone's record: name, digest of the weights, tap, geometry, ...
        architecture: what the catalog says of the network; a norm behind the tap is not in the record.
        scores: average to percent, over all training runs with this encoder.
        num_runs: how many those are.
    """

    study: Study
    arm: str
    record: dict[str, Any]
    architecture: dict[str, Any]
    scores: dict[str, float]
    num_runs: int

    @property
    def name(self) -> str:
        """Study and arm."""
        return f"{self.study.name}/{self.arm}"

    @property
    def family(self) -> str:
        """Family of the network; encoders of one family may share weights."""
        return str(self.record["family"])

    @property
    def identity(self) -> str:
        """A digest that no other encoder has."""
        return digest([self.record, self.architecture])

    @property
    def folder(self) -> str:
        """Name of the folder of its probe."""
        return f"{kebab(str(self.record['name']))}-{self.identity[:8]}"

    def load(self) -> LoadedBackbone:
        """Load the backbone.

        Raises:
            DataError: if the files of today make another encoder than the one of the results.
        """
        from eyeswap.backbones.weights import load_backbone

        arm = self.study.arms[self.arm]
        loaded = load_backbone(arm.backbone, arm.weights, tap=arm.tap, geometry=arm.geometry)
        if loaded.record() != self.record:
            raise DataError(f"{self.name}: its weights, tap or geometry are no longer those of its results")
        return loaded

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy of the pretraining in percent: the catalog's, or that on the card of the arm's own weights."""
        if self.study.arms[self.arm].weights is not None:
            return self.record.get("top1")
        published = published_accuracy(str(self.record["name"]))
        return published[1] if published else None


@dataclass(frozen=True)
class Found:
    """Encoders, and the arms that are not among them, each with the reason."""

    encoders: list[Encoder]
    left_out: dict[str, str]


def find_encoders(studies: Sequence[Study], results: Path) -> Found:
    """Return the distinct encoders of finished arms, as far as those differ in nothing but the encoder.

    Arms with the same encoder are averaged, each with the weight of its training runs. Of several recipes or connectors
    the one with most arms is taken, so that nothing else moves the scores.

    Args:
        studies: the studies.
        results: folder with ``<study>/results.json`` or ``<study>/report/results.json`` of each.

    Raises:
        DataError: if a study has no results there, or the file is not a report's.
    """
    left_out: dict[str, str] = {}
    arms: list[tuple[str, Encoder]] = []
    for study in studies:
        content = _read(study, results)
        for arm in study.arms:
            name, found = f"{study.name}/{arm}", content.get(arm)
            if found is None or not found["finished"]:
                left_out[name] = "not finished"
            elif study.wiring_of(arm) != "controlled":
                left_out[name] = "wired as published: what it sees varies with chance"
            else:
                scores = {group: float(found["averages"][group]["value"]) for group in found["averages"]}
                record, architecture = found["backbone"], _architecture(study.arms[arm])
                encoder = Encoder(study, arm, record, architecture, scores, len(found["seeds"]))
                arms.append((_all_else(study, arm), encoder))
    usual = Counter(rest for rest, _ in arms).most_common(1)[0][0] if arms else ""
    left_out |= {encoder.name: "another recipe or connector" for rest, encoder in arms if rest != usual}
    groups: dict[str, list[Encoder]] = {}
    for rest, encoder in arms:
        if rest == usual:
            groups.setdefault(encoder.identity, []).append(encoder)
    return Found([_averaged(group) for group in groups.values()], left_out)


def _read(study: Study, folder: Path) -> dict[str, Any]:
    """Return the arms of a study's results."""
    places = [folder / study.name / "results.json", folder / study.name / "report" / "results.json"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(f"{places[0]}: no such file; eyeswap report writes it, --results names its folder")
    try:
        arms: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["arms"]
        for arm in arms.values():
            if arm["finished"]:
                _ = arm["backbone"]["family"], arm["backbone"]["name"], arm["seeds"][0]
                _ = [float(average["value"]) for average in arm["averages"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        raise DataError(f"{file}: not the results.json of a report ({problem!r})") from None
    return arms


def _architecture(arm: Arm) -> dict[str, Any]:
    """Return what the catalog says of an arm's network, with the arm's tap; nothing outside the catalog."""
    entry = catalog.find(arm.backbone)
    return {} if entry is None else dict(entry.with_changes(tap=arm.tap).architecture)


def _all_else(study: Study, arm: str) -> str:
    """Return everything but the encoder that a score depends on; more test images make it only more precise."""
    recipe = study.recipe_of(arm).model_dump(mode="json")
    recipe["data"].pop("num_val_images", None)
    return canonical_json({"recipe": recipe, "connector": study.connector_of(arm), "benchmarks": study.benchmarks})


def _averaged(group: Sequence[Encoder]) -> Encoder:
    """Average arms with one encoder; of arms with the same scores, which are copies of the same runs, one counts."""
    own = list({canonical_json(one.scores): one for one in reversed(group)}.values())
    runs = sum(one.num_runs for one in own)
    scores = {each: sum(one.scores[each] * one.num_runs for one in own) / runs for each in group[0].scores}
    return replace(group[0], scores=scores, num_runs=runs)


def probe_encoders(
    encoders: Sequence[Encoder], images: LabelledImages, folder: Path, board: Progress, *, device: Any, seed: int
) -> list[dict[str, Any]]:
    """Return what is in ``probe.json`` of each encoder: stored in the folder, or made now and stored there.

    Args:
        encoders: the encoders.
        images: labelled images to probe them with.
        folder: of the probes, a folder each.
        board: shows progress.
        device: where backbones work.
        seed: of questions, folds and readouts.

    Raises:
        SpecError: if a stored probe is of other images or settings, which must not be mixed with these.
        DataError: if a stored probe cannot be read, or an encoder is no longer that of its results.
    """
    from eyeswap.probing.probe import probe_backbone, write_result

    expected = {"source": images.source, "num_images": len(images.images), "settings": {"seed": seed}}
    probes = {encoder.folder: _stored(folder / encoder.folder / "probe.json", expected) for encoder in encoders}
    todo = [encoder for encoder in encoders if probes[encoder.folder] is None]
    for encoder in board.track(todo, "encoders", len(todo)) if todo else ():
        result = probe_backbone(encoder.name, encoder.load(), images, board, device=device, seed=seed)
        write_result(result, folder / encoder.folder)
        probes[encoder.folder] = result.as_json()
    return [probe for encoder in encoders if (probe := probes[encoder.folder]) is not None]


def _stored(file: Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a stored probe, which must have been made as expected; None if there is none."""
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = {key: content[key] for key in expected}
    except (ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{file}: not a probe's result ({problem!r}); remove it") from None
    if found != dict(expected):
        raise SpecError(f"{file}: probed with other images or settings; name another folder with --probes")
    return content
