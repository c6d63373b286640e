"""The frozen backbones of a study's arms: checked before hours are spent, then each loaded once for all seeds."""

from __future__ import annotations

from collections.abc import Container, Iterable

from eyeswap.backbones.weights import LoadedBackbone, check_backbone, load_backbone
from eyeswap.errors import SpecError
from eyeswap.planning.estimate import positions_problem
from eyeswap.planning.llm import check_questions
from eyeswap.planning.spec import Study
from eyeswap.shipped import llm_source
from eyeswap.training.log import import_tracker
from eyeswap.training.lora import import_peft
from eyeswap.training.vision import check_canvas
from eyeswap.vlm.llm import load_llm, num_positions


class Backbones:
    """The backbones of a study's arms, kept in memory between their first run and their last."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._loaded: dict[str, LoadedBackbone] = {}

    def __getitem__(self, arm: str) -> LoadedBackbone:
        """Return an arm's frozen backbone as the arm declares it: weights, wiring, tap, geometry."""
        if arm not in self._loaded:
            declared = self._study.arms[arm]
            self._loaded[arm] = load_backbone(
                declared.backbone, wiring=self._study.wiring_of(arm), tap=declared.tap, geometry=declared.geometry
            )
        return self._loaded[arm]

    def keep(self, arms: Container[str]) -> None:
        """Forget the backbones of all arms but these, and leave the accelerator to the next."""
        self._loaded = {arm: loaded for arm, loaded in self._loaded.items() if arm in arms}
        for loaded in self._loaded.values():
            loaded.network.to("cpu")


def check_arms(study: Study, arms: Iterable[str], *, for_training: bool) -> None:
    """Check all that arms need, so that what is missing is told at once and not after hours of work.

    Args:
        study: the study.
        arms: names of the arms that have something to do.
        for_training: whether anything is to be trained, so that the language model is needed.

    Raises:
        CheckpointError: if the LLM or a backbone cannot be had.
        SpecError: if an arm cannot be trained as it is; with the choices there are.
        EnvironmentProblem: if adapters are wanted and peft is not installed, or a tracker is not.
    """
    positions = _check_training(study) if for_training else None
    for arm in arms:
        declared = study.arms[arm]
        network, geometry = check_backbone(
            declared.backbone, study.wiring_of(arm), tap=declared.tap, geometry=declared.geometry
        )
        if not for_training:
            continue
        check_canvas(declared.backbone, geometry)
        rows, columns = network.token_grid(*geometry.canvas)
        problem = positions_problem(study.recipe.llm, positions, rows * columns, geometry.canvas[0] / rows)
        if problem is not None and study.beyond_positions == "refuse":
            raise SpecError(f"{study.name}: arms.{arm}: {problem}")


def _check_training(study: Study) -> int | None:
    """Check what every arm's training needs; return how many positions the language model was made for."""
    if study.recipe.lora_rank is not None:
        import_peft()
    for name in study.execution.track:
        import_tracker(name)
    llm, tokenizer, prompt = load_llm(llm_source(study.recipe.llm), prompt=study.recipe.prompt)
    check_questions(study, tokenizer, prompt)
    return num_positions(llm.config)
