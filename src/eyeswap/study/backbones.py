"""The frozen backbones of a study's arms: checked before any training, then each loaded once for all seeds."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from typing import Any

from eyeswap.backbones.weights import LoadedBackbone, check_backbone, load_backbone
from eyeswap.errors import SpecError
from eyeswap.planning.cost import connector_size
from eyeswap.planning.estimate import positions_problem
from eyeswap.planning.llm import check_questions
from eyeswap.planning.spec import Study
from eyeswap.recipe import Recipe
from eyeswap.shipped import llm_source
from eyeswap.training.log import import_tracker
from eyeswap.training.lora import import_peft
from eyeswap.training.vision import check_canvas
from eyeswap.vlm.llm import load_llm, num_positions


class Backbones:
    """The backbones of a study's arms, kept in memory from their first run to their last."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._loaded: dict[str, LoadedBackbone] = {}

    def __getitem__(self, arm: str) -> LoadedBackbone:
        """Return an arm's frozen backbone with the weights, wiring, tap and geometry that the arm declares."""
        if arm not in self._loaded:
            spec = self._study.arms[arm]
            self._loaded[arm] = load_backbone(
                spec.backbone, spec.weights, self._study.wiring_of(arm), tap=spec.tap, geometry=spec.geometry
            )
        return self._loaded[arm]

    def keep(self, arms: Container[str]) -> None:
        """Drop the backbones of all other arms, and move these to the CPU to free the accelerator."""
        self._loaded = {arm: loaded for arm, loaded in self._loaded.items() if arm in arms}
        for loaded in self._loaded.values():
            loaded.network.to("cpu")


def check_arms(study: Study, arms: Iterable[str], *, for_training: bool) -> None:
    """Check everything that the arms need, so that a problem shows at once and not after hours of work.

    Args:
        study: the study.
        arms: names of the arms with unfinished runs.
        for_training: whether anything is to be trained, which needs the language model.

    Raises:
        CheckpointError: if the LLM or a backbone is not available.
        SpecError: if an arm cannot be trained as specified; the message names the alternatives.
        EnvironmentProblem: if adapters or a tracker are requested and the package is not installed.
    """
    llms: dict[str, Any] = {}
    for arm in arms:
        spec = study.arms[arm]
        network, geometry = check_backbone(
            spec.backbone, study.wiring_of(arm), weights=spec.weights, tap=spec.tap, geometry=spec.geometry
        )
        if not for_training:
            continue
        check_canvas(spec.backbone, geometry)
        recipe = study.recipe_of(arm)
        if recipe.adapter_rank is not None:
            import_peft()
        if recipe.tuned is not None:
            network.unfreeze(recipe.tuned.last)  # of this copy on the meta device; says so if there are fewer
        if recipe.llm not in llms:
            llms[recipe.llm] = _check_llm(study, recipe)
        llm = llms[recipe.llm]
        grid = network.token_grid(*geometry.canvas)
        tokens = connector_size(study.connector_of(arm), grid, network.embed_dim, llm.hidden_size).tokens
        stride_px = math.sqrt(math.prod(geometry.canvas) / tokens)
        problem = positions_problem(recipe.llm, num_positions(llm), tokens, stride_px)
        if problem is not None and study.beyond_positions == "refuse":
            raise SpecError(f"{study.name}: arms.{arm}: {problem}")


def _check_llm(study: Study, recipe: Recipe) -> Any:
    """Check the language model of a recipe; return its configuration."""
    for name in study.execution.track:
        import_tracker(name)
    llm, tokenizer, prompt = load_llm(llm_source(recipe.llm), prompt=recipe.prompt)
    check_questions(study, recipe, tokenizer, prompt)
    return llm.config
