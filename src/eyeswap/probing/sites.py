"""Where a probe looks: visual tokens, connector outputs, and hidden states of the LLM.

In every prompt the image comes before the question, so what the LLM's image positions say does not depend on the
question; the state at the last position of a prompt, from which the answer's first token is predicted, does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eyeswap.backbones.base import batch_size, encode
from eyeswap.errors import SpecError
from eyeswap.geometry import Placement
from eyeswap.probing.labelled import LabelledImages
from eyeswap.probing.questions import Question
from eyeswap.probing.readouts import Features
from eyeswap.vlm.text_ids import text_ids

if TYPE_CHECKING:
    from eyeswap.backbones.weights import LoadedBackbone
    from eyeswap.vlm.model import VisionLanguageModel

Advance = Callable[[int], None]
_PROMPTS = 64  # prompts of one length in a forward pass


@dataclass(frozen=True)
class Seen:
    """Images as a backbone sees them: visual tokens ``[I, N, D]`` (float32, CPU), their grid, and the placements."""

    tokens: Tensor
    grid: tuple[int, int]
    placements: tuple[Placement, ...]


def see(backbone: LoadedBackbone, images: LabelledImages, device: torch.device, advance: Advance) -> Seen:
    """Encode all images.

    Raises:
        SpecError: if the canvas varies with the image, so that the images have no grid in common.
    """
    geometry = backbone.geometry
    if geometry.strategy == "keep-ratio":
        raise SpecError(
            f"{backbone.name}: its canvas varies with the image; probe it with a fixed one, such as a square"
        )
    network = backbone.network.to(device)
    tokens, placements = [], []
    for chunk in _chunks(range(len(images.images)), batch_size(*geometry.canvas)):
        placed = [geometry.place(images.images[row].open()) for row in chunk]
        with torch.inference_mode():
            tokens.append(encode(network, torch.stack([pixels for pixels, _ in placed]).to(device)).float().cpu())
        placements += [placement for _, placement in placed]
        advance(len(chunk))
    return Seen(torch.cat(tokens).clone(), network.token_grid(*geometry.canvas), tuple(placements))


def grid_sites(model: VisionLanguageModel, seen: Seen, layers: Sequence[int], advance: Advance) -> dict[str, Features]:
    """Return the features at the image's positions: connector outputs and the states behind some LLM layers.

    Raises:
        SpecError: if the tokens behind the connector have no place in the image.
    """
    grid = model.connector.seen_grid(seen.grid)
    if grid is None:
        raise SpecError(f"connector {model.connector.kind}: its tokens have no place in the image to probe")
    names = {0: "connector"} | {layer: f"LLM layer {layer}" for layer in layers}
    states: dict[int, list[Tensor]] = {layer: [] for layer in names}
    lead = int(model.config.bos_first)
    bos = [model.tokenizer.bos_token_id] * lead
    num_visual = seen.tokens.shape[1]
    for chunk in _chunks(range(len(seen.tokens)), _PROMPTS):
        ids = torch.tensor([model.insert_visual(bos, num_visual)] * len(chunk), device=model.device)
        hidden = _hidden_states(model, ids, seen.tokens[list(chunk)])
        for layer in names:
            states[layer].append(hidden[layer][:, lead : lead + math.prod(grid)].float().cpu())
        advance(len(chunk))
    return {name: Features(torch.cat(states[layer]).clone(), grid) for layer, name in names.items()}


def answer_sites(
    model: VisionLanguageModel, seen: Seen, questions: Sequence[Question], layers: Sequence[int], advance: Advance
) -> dict[str, Features]:
    """Return the states at the position from which the answer is predicted, one a question, behind some LLM layers."""
    prompts = [model.prompt.question(question.text) for question in questions]
    num_visual = seen.tokens.shape[1]
    ids = [model.insert_visual(each, num_visual) for each in text_ids(model.tokenizer, prompts, begins=True)]
    states = {layer: torch.zeros(len(questions), model.config.text_config.hidden_size) for layer in layers}
    for length in sorted({len(each) for each in ids}):
        for chunk in _chunks([row for row, each in enumerate(ids) if len(each) == length], _PROMPTS):
            batch = torch.tensor([ids[row] for row in chunk], device=model.device)
            hidden = _hidden_states(model, batch, seen.tokens[[questions[row].image for row in chunk]])
            for layer in layers:
                states[layer][list(chunk)] = hidden[layer][:, -1].float().cpu()
            advance(len(chunk))
    return {f"answer, layer {layer}": Features(values, None) for layer, values in states.items()}


def chosen_layers(model: VisionLanguageModel, layers: Sequence[int] | None) -> list[int]:
    """Return the LLM layers to look behind, counted from 1; by default a quarter, a half, three quarters and all.

    Raises:
        SpecError: if the LLM has no such layer.
    """
    depth = int(model.config.text_config.num_hidden_layers)
    if layers is None:
        return sorted({max(1, round(depth * share / 4)) for share in (1, 2, 3, 4)})
    for layer in layers:
        if not 1 <= layer <= depth:
            raise SpecError(f"--layers {layer}: this LLM has layers 1 to {depth}")
    return sorted(set(layers))


@torch.inference_mode()
def _hidden_states(model: VisionLanguageModel, ids: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """Return embeddings and the states behind each layer, ``[B, T, llm_width]`` each."""
    embedded = model.embed(ids, tokens.to(model.device))
    outputs = model.llm.base_model(inputs_embeds=embedded, use_cache=False, output_hidden_states=True)
    hidden: tuple[Tensor, ...] = outputs.hidden_states
    return hidden


def _chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
