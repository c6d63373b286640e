"""The cost of each arm in tokens, FLOPs, time and parameters, so that scores can be compared at equal budgets.

FLOPs are computed analytically for one question with its image: backbone, connector and prefill of the LLM. Time is the
time to the first token from a profile of this machine (`eyeswap profile`) in the study's folder; the latencies recorded
during evaluation are no substitute, because visual tokens are cached and machines are shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eyeswap.backbones.name import BackboneName
from eyeswap.connector_name import ConnectorName
from eyeswap.errors import EyeswapError
from eyeswap.planning.cost import connector_size, prefill_flops
from eyeswap.planning.estimate import QUESTION_TOKENS, known_llm
from eyeswap.planning.footprint import backbone_footprint
from eyeswap.planning.profile import Cell, read_csv
from eyeswap.planning.spec import Study
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.privacy import without_paths


@dataclass(frozen=True)
class Budget:
    """One kind of cost of all finished arms.

    Attributes:
        key: ``tokens``, ``flops``, ``seconds`` or ``parameters``.
        title: name for axes and tables.
        values: arm to its cost; arms whose cost is unknown are left out.
        note: the source of the numbers, or why they are missing.
    """

    key: str
    title: str
    values: dict[str, float]
    note: str

    @property
    def equal(self) -> bool:
        """Whether all known costs are equal."""
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
    """Return the Pareto front: the arms that no other beats at the same or a lower cost, cheapest first."""
    best, front = float("-inf"), []
    for name in sorted(costs, key=lambda arm: (costs[arm], -scores[arm])):
        if scores[name] > best:
            best = scores[name]
            front.append(name)
    return front


def find_profile(study_dir: Path) -> list[Cell]:
    """Read the profile in a study's folder; empty if there is none.

    Raises:
        DataError: if the file was not written by ``eyeswap profile``.
    """
    path = StudyFolder(study_dir).profile
    return read_csv(path) if path.is_file() else []


def _flops(results: StudyResults) -> tuple[dict[str, float], str]:
    try:
        study = Study.model_validate(results.study)
    except ValidationError:
        return {}, "the study was written by another version, so its FLOPs are unknown"
    llms = {name: known_llm(study.recipe_of(name).llm) for name in study.arms}
    if not any(llm for llm, _ in llms.values()):
        return {}, llms[next(iter(study.arms))][1][0]
    flops = {}
    for arm in results.finished_arms:
        declared, connector = study.arms[arm.name], ConnectorName.parse(study.connector_of(arm.name))
        llm, _ = llms[arm.name]
        if llm is None or BackboneName.parse(declared.backbone).kind != "catalog" or connector.own is not None:
            continue  # a report must not run custom code
        try:
            size = backbone_footprint(declared.backbone, study.wiring_of(arm.name), declared.tap, declared.geometry)
        except EyeswapError:
            continue
        interface = connector_size(connector.text, size.grid, size.width, llm.width)
        prefill = prefill_flops(llm, interface.multiplied_per_token, interface.tokens, QUESTION_TOKENS)
        flops[arm.name] = size.flops + prefill
    names = " or ".join(dict.fromkeys(without_paths(llm.name) for llm, _ in llms.values() if llm is not None))
    return flops, f"backbone, connector, and prefill of {names} with image and {QUESTION_TOKENS} text tokens"


def _seconds(arms: list[Arm], profile: list[Cell], study_dir: Path) -> tuple[dict[str, float], str]:
    measured = {_profiled(cell.backbone, cell.tokens, cell.connector): cell.end_to_end_s for cell in profile}
    seconds = {
        arm.name: measured.get(_profiled(arm.backbone.name, arm.num_tokens, arm.runs[0].record.connector.kind))
        for arm in arms
    }
    if any(seconds.values()):
        return {name: value for name, value in seconds.items() if value}, "from the profile of this machine"
    folder = without_paths(str(study_dir))
    return {}, f"not measured; `eyeswap profile --out {folder}/profile` measures backbones at the given image sizes"


def _profiled(backbone: str | None, tokens: int | None, connector: str | None) -> tuple[str | None, int | None, str]:
    """Return what a time belongs to: MLPs take about the same time, steps before them do not."""
    return backbone, tokens, "" if connector is None else ConnectorName.parse(connector).changes_tokens
