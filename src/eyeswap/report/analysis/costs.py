"""What each arm costs: tokens, FLOPs, time and parameters, so that scores can be compared at equal budgets.

FLOPs are counted on paper for one question with its image: backbone, connector and the LLM's reading. Time is that to
the first token, from a profile of this machine (`eyeswap profile`) in the study's folder; the times noted while
answering are no substitute, because visual tokens are cached and machines are shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eyeswap.backbones.name import BackboneName
from eyeswap.errors import EyeswapError
from eyeswap.planning.cost import connector_parameters, prefill_flops
from eyeswap.planning.estimate import QUESTION_TOKENS, known_llm
from eyeswap.planning.footprint import backbone_footprint
from eyeswap.planning.profile import Cell, read_csv
from eyeswap.planning.spec import Study
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.runs.folder import StudyFolder


@dataclass(frozen=True)
class Budget:
    """One kind of cost, over all finished arms.

    Attributes:
        key: ``tokens``, ``flops``, ``seconds`` or ``parameters``.
        title: for axes and tables.
        values: arm to its cost; arms of unknown cost are left out.
        note: where the numbers come from, or why they are missing.
    """

    key: str
    title: str
    values: dict[str, float]
    note: str

    @property
    def equal(self) -> bool:
        """Whether all arms with a known cost have the same."""
        return len(set(self.values.values())) < 2


def budgets(results: StudyResults, profile: list[Cell]) -> list[Budget]:
    """Return the four kinds of cost of every finished arm."""
    arms = results.finished_arms
    flops, note = _flops(results)
    seconds, source = _seconds(arms, profile, results.folder)
    return [
        Budget("tokens", "visual tokens", {arm.name: float(arm.num_tokens) for arm in arms if arm.num_tokens}, ""),
        Budget("flops", "FLOPs a question", flops, note),
        Budget("seconds", "seconds to the first token", seconds, source),
        Budget(
            "parameters", "backbone parameters",
            {arm.name: float(arm.num_parameters) for arm in arms if arm.num_parameters}, "up to the tap",
        ),
    ]  # fmt: skip


def frontier(costs: dict[str, float], scores: dict[str, float]) -> list[str]:
    """Return the arms that no other beats at the same or a smaller cost, cheapest first."""
    best, front = float("-inf"), []
    for name in sorted(costs, key=lambda arm: (costs[arm], -scores[arm])):
        if scores[name] > best:
            best = scores[name]
            front.append(name)
    return front


def find_profile(study_dir: Path) -> list[Cell]:
    """Read the profile that lies in a study's folder; nothing if there is none.

    Raises:
        DataError: if it is not what ``eyeswap profile`` writes.
    """
    path = StudyFolder(study_dir).profile
    return read_csv(path) if path.is_file() else []


def _flops(results: StudyResults) -> tuple[dict[str, float], str]:
    try:
        study = Study.model_validate(results.study)
    except ValidationError:
        return {}, "the study was written by another version, so its FLOPs are not counted"
    llm, notes = known_llm(study.recipe.llm)
    if llm is None:
        return {}, notes[0]
    found = {}
    for arm in results.finished_arms:
        own = study.arms[arm.name]
        if BackboneName.parse(own.backbone).kind != "catalog":
            continue  # a report runs no code of others
        try:
            size = backbone_footprint(own.backbone, study.wiring_of(arm.name), own.tap, own.geometry)
        except EyeswapError:
            continue
        connector = connector_parameters(study.connector_of(arm.name), size.width, llm.width)
        found[arm.name] = size.flops + prefill_flops(llm, connector, size.tokens, QUESTION_TOKENS)
    return found, f"backbone, connector, and {study.recipe.llm} reading image and {QUESTION_TOKENS} text tokens"


def _seconds(arms: list[Arm], profile: list[Cell], study_dir: Path) -> tuple[dict[str, float], str]:
    measured = {(cell.backbone, cell.tokens): cell.end_to_end_s for cell in profile if cell.end_to_end_s}
    found = {arm.name: measured.get((str(arm.backbone.name), arm.num_tokens)) for arm in arms}
    if any(found.values()):
        return {name: seconds for name, seconds in found.items() if seconds}, "by the profile of this machine"
    return {}, f"not measured; `eyeswap profile --out {study_dir}/profile` measures backbones at the sides asked for"
