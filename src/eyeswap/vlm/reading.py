"""How an LLM reads the prompts of a batch, so that none of them depends on the others, whatever the LLM.

Where attention alone looks back, the prefix that all prompts share is read once an image, and each question reads on
from there (`SharedPrefix`). All rows end together: a row with a shorter question reads the end of the prefix again, so
its keys lie side by side however an LLM counts their distance (positions, biases, or a sliding window over slots).

An LLM with a state, or with a cache of a kind of its own, reads every prompt whole (`WholePrompts`), prompts of equal
length together, so that nothing is ever padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from eyeswap.vlm.decoder import Decoder
from eyeswap.vlm.kv_cache import spread
from eyeswap.vlm.model import VisionLanguageModel


class Prompt(NamedTuple):
    """A prompt: the image it is about (row of the batch), its token ids."""

    row: int
    ids: list[int]


class Reading(NamedTuple):
    """Prompts after the LLM has read them.

    Attributes:
        hidden: ``[Q, D]``, what the last layer says at the end of each prompt.
        cache: what is known of each prompt.
        mask: ``[Q, slots]``, 0 where a slot of the cache means nothing; None if all mean something.
        positions: ``[Q]`` position of the first answer token.
    """

    hidden: Tensor
    cache: Cache
    mask: Tensor | None
    positions: Tensor


class SharedPrefix:
    """What all prompts about some images begin with, read once an image.

    Args:
        model: the VLM.
        decoder: its LLM.
        visual_tokens: ``[I, N, vision_width]``.
        ids: token ids that all prompts begin with.
    """

    def __init__(self, model: VisionLanguageModel, decoder: Decoder, visual_tokens: Tensor, ids: list[int]) -> None:
        self._model, self._decoder, self._num_ids = model, decoder, len(ids)
        num_images, num_visual = visual_tokens.shape[:2]
        with_image = torch.tensor(model.insert_visual(ids, num_visual), dtype=torch.long, device=visual_tokens.device)
        self._embedded = model.embed(with_image.expand(num_images, -1), visual_tokens)  # [I, P, D]
        self._cache = DynamicCache()
        if self._embedded.shape[1]:
            decoder(self._cache, None, None, inputs_embeds=self._embedded)

    def read(self, prompts: Sequence[Prompt]) -> Reading:
        """Read what the prompts do not share."""
        device, before = self._embedded.device, self._embedded.shape[1]
        suffixes = [prompt.ids[self._num_ids :] for prompt in prompts]
        longest = max(map(len, suffixes))
        rows = torch.tensor([prompt.row for prompt in prompts], device=device)
        lacking = torch.tensor([longest - len(ids) for ids in suffixes], device=device)  # [Q]
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in suffixes], device=device)  # [Q, T]
        embedded = self._model.get_input_embeddings()(padded)  # [Q, T, D]
        place = before - lacking[:, None] + torch.arange(longest, device=device)  # [Q, T], from the first token
        if before:
            again = self._embedded[rows[:, None], place.clamp(0, before - 1)]
            embedded = torch.where((place < before)[..., None], again, embedded)
        slots = torch.arange(before + longest, device=device)
        mask = (slots >= lacking[:, None]).long()  # [Q, P + T]
        cache = spread(self._cache, rows, longest, lacking)
        hidden, cache = self._decoder(cache, mask, place.clamp(min=0), inputs_embeds=embedded)
        return Reading(hidden[:, -1], cache, mask, place[:, -1] + 1)


class WholePrompts:
    """Prompts about some images, read from their first token on.

    Args:
        model: the VLM.
        decoder: its LLM.
        visual_tokens: ``[I, N, vision_width]``.
    """

    def __init__(self, model: VisionLanguageModel, decoder: Decoder, visual_tokens: Tensor) -> None:
        self._model, self._decoder, self._visual_tokens = model, decoder, visual_tokens

    def read(self, prompts: Sequence[Prompt]) -> Reading:
        """Read prompts of equal length."""
        device = self._visual_tokens.device
        rows = torch.tensor([prompt.row for prompt in prompts], device=device)
        num_visual = self._visual_tokens.shape[1]
        ids = torch.tensor([self._model.insert_visual(prompt.ids, num_visual) for prompt in prompts], device=device)
        embedded = self._model.embed(ids, self._visual_tokens[rows])  # [Q, N + T, D]
        hidden, cache = self._decoder(None, None, None, inputs_embeds=embedded)
        return Reading(hidden[:, -1], cache, None, torch.full_like(rows, embedded.shape[1]))
