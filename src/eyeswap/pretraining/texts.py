"""Pretraining texts of the miniature LLM, in a module without torch so that worker processes start quickly."""

from __future__ import annotations

import numpy as np

from eyeswap.data.digits.language import conversation, word_grid
from eyeswap.data.digits.scene import sample_scene
from eyeswap.data.formats.boxes import BOX_REQUEST

RASTER = 8  # rows and columns of a scene drawn in words; the miniature backbones have as many visual tokens
_TEXT_SEED = 2  # starts the seed of every text scene, so that none equals the scene of an image

Text = tuple[list[str], list[tuple[str, str]]]  # the scene in words, and the turns of the conversation


def make_text(seed: int, index: int, raster: int = RASTER) -> Text:
    """Return one pretraining text: a scene in ``raster * raster`` words and a conversation about it."""
    rng = np.random.default_rng([_TEXT_SEED, seed, index])
    scene = sample_scene(rng, "train")
    turns = conversation(scene, rng, num_questions=4, num_boxes=6)
    return word_grid(scene, raster, raster), [(_vary(human, rng), answer) for human, answer in turns]


def _vary(human: str, rng: np.random.Generator) -> str:
    """Quote half of the referring expressions, as the benchmarks do and the instruction mix does not."""
    if human.startswith(BOX_REQUEST) and rng.random() < 0.5:
        return f'{BOX_REQUEST}"{human.removeprefix(BOX_REQUEST).removesuffix(".")}"'
    return human
