"""Check early that a study's LLM can represent its conversations and its benchmarks' questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyeswap.data.instruction import read_instructions
from eyeswap.errors import SpecError
from eyeswap.evaluation import BENCHMARKS, TEST_SPLITS, get_benchmark
from eyeswap.planning.cost import config_path
from eyeswap.planning.spec import Study
from eyeswap.recipe import Data, DigitsData, Recipe
from eyeswap.shipped import SHIPPED_LLM, llm_path

if TYPE_CHECKING:
    from eyeswap.vlm.prompt import Prompt

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TWO_ROUNDS = ("Is there a dog?", "Yes", "Is there a cat?", "No")


def check_llm(study: Study) -> None:
    """Check what can be checked of each arm's LLM without weights, if its tokenizer is on this machine.

    Raises:
        SpecError: if an LLM is of an unsupported kind, or cannot represent the study's conversations or questions.
    """
    recipes = [study.recipe_of(arm) for arm in study.arms]
    for recipe in {(recipe.llm, recipe.data): recipe for recipe in recipes}.values():
        _check_llm(study, recipe)


def _check_llm(study: Study, recipe: Recipe) -> None:
    config = config_path(recipe.llm, llm_path(recipe.llm))
    if config is None or _is_known_to_fit(study, recipe):
        return
    from eyeswap.vlm.llm import load_config, load_tokenizer

    folder = config.parent
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        load_config(folder)
        check_questions(study, recipe, *load_tokenizer(folder, recipe.prompt))


def _is_known_to_fit(study: Study, recipe: Recipe) -> bool:
    """Return whether this is the shipped LLM with built-in benchmarks, tested already: no need to load transformers."""
    known = recipe.llm == SHIPPED_LLM and recipe.prompt == Recipe.model_fields["prompt"].default
    return known and all(name in BENCHMARKS or name in TEST_SPLITS for name in study.benchmarks)


def check_questions(study: Study, recipe: Recipe, tokenizer: Any, prompt: Prompt) -> None:
    """Check that the prompt supports multi-turn conversations and every answer choice of every benchmark.

    Args:
        study: the study, for its benchmarks.
        recipe: the recipe of an arm, for its data.
        tokenizer: the tokenizer of its LLM.
        prompt: the chat frame.

    Raises:
        SpecError: naming what is not supported, and the key of the recipe to change.
    """
    from eyeswap.vlm.prompt_check import check_choices

    check_choices(tokenizer, prompt, (get_benchmark(name).choices for name in study.benchmarks))
    try:
        prompt.turns(_TWO_ROUNDS)
    except SpecError:
        if _has_rounds(recipe.data):
            raise


def _has_rounds(data: Data) -> bool:
    """Return whether any conversation asks more than one question."""
    if isinstance(data, DigitsData):
        return data.turns > 1
    return any(len(record.messages) > 2 for record in read_instructions(Path(data.folder) / data.instruction))
