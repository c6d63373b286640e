"""Answer many questions about many images, greedily, with each image prefilled once.

All questions of one image share the prefix ``[BOS][visual tokens]``. It goes through the LLM once; its keys and values
are then repeated for the image's questions, which run as one batch. Questions are padded on the right; padded
slots are masked, and positions count real tokens only, so that batch mates cannot change an answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from eyeswap.errors import SpecError
from eyeswap.vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class Request:
    """A question about one image.

    Attributes:
        image: path of the image, as the token cache knows it.
        prompt: the whole inference prompt.
        choices: single-token strings whose first-token probabilities are wanted; empty for free text.
        max_new_tokens: longest free text.
    """

    image: str
    prompt: str
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 128


@dataclass(frozen=True)
class Generation:
    """An answer: text, or the probabilities of the choices (renormalised among them)."""

    text: str
    probabilities: tuple[float, ...] | None
    num_tokens: int
    latency_s: float


class Generator:
    """Greedy decoding for one VLM.

    Args:
        model: the VLM, in eval mode.
        images_per_batch: images prefilled together.
        questions_per_batch: questions decoded together.
    """

    def __init__(self, model: VisionLanguageModel, images_per_batch: int = 32, questions_per_batch: int = 256) -> None:
        self.model = model
        self.images_per_batch, self.questions_per_batch = images_per_batch, questions_per_batch
        self.tokenizer = model.tokenizer

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt behind its beginning-of-sequence token."""
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=True)["input_ids"]
        return ids[1:]

    def choice_ids(self, choices: Sequence[str]) -> list[int]:
        """Return the token of each choice.

        Raises:
            SpecError: if a choice is not exactly one token of this LLM.
        """
        ids = [self.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in choices]
        for choice, pieces in zip(choices, ids, strict=True):
            if len(pieces) != 1:
                raise SpecError(f"choice {choice!r} is {len(pieces)} tokens of this LLM; it must be one")
        return [pieces[0] for pieces in ids]

    @torch.inference_mode()
    def answer(self, visual_tokens: Tensor, questions: Sequence[Sequence[Request]]) -> Iterator[list[Generation]]:
        """Answer the questions of some images.

        Args:
            visual_tokens: ``[I, N, vision_width]``, one row an image.
            questions: the requests about each image; all of one kind (all with the same choices, or none).

        Yields:
            The answers to each image's questions, image after image.
        """
        embed = self.model.llm.get_input_embeddings()
        bos = embed(torch.tensor([[self.tokenizer.bos_token_id]])).expand(len(visual_tokens), -1, -1)
        prefix = torch.cat([bos, self.model.connector(visual_tokens)], dim=1)  # [I, 1+N, D]
        cache = self.model.llm.base_model(inputs_embeds=prefix, use_cache=True).past_key_values
        flat = [(row, request) for row, requests in enumerate(questions) for request in requests]
        answers: list[Generation] = []
        for start in range(0, len(flat), self.questions_per_batch):
            part = flat[start : start + self.questions_per_batch]
            rows = torch.tensor([row for row, _ in part])
            answers += self._decode(_select(cache, rows), prefix.shape[1], [request for _, request in part])
        position = 0
        for requests in questions:
            yield answers[position : position + len(requests)]
            position += len(requests)

    def _decode(self, cache: DynamicCache, prefix: int, requests: Sequence[Request]) -> list[Generation]:
        started = time.perf_counter()
        ids = [self.prompt_ids(request.prompt) for request in requests]
        lengths = torch.tensor([len(row) for row in ids])
        longest = int(lengths.max())
        pad = int(self.tokenizer.pad_token_id or 0)
        tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in ids])  # [Q, T]
        mask = torch.cat(
            [
                torch.ones(len(ids), prefix, dtype=torch.long),
                (torch.arange(longest) < lengths[:, None]).long(),
            ],
            dim=1,
        )  # [Q, prefix+T]
        positions = torch.arange(prefix, prefix + longest).expand(len(ids), -1)
        hidden = self._forward(tokens, mask, positions, cache)  # [Q, T, D]
        logits = self._logits(hidden[torch.arange(len(ids)), lengths - 1])  # [Q, V]
        if requests[0].choices:
            return self._choose(logits, requests, started)
        return self._continue(logits, cache, mask, prefix + lengths, requests, started)

    def _choose(self, logits: Tensor, requests: Sequence[Request], started: float) -> list[Generation]:
        """Read the answer from the first position alone: nothing is generated."""
        chosen = logits.softmax(-1)[:, self.choice_ids(requests[0].choices)]  # [Q, choices]
        chosen = chosen / chosen.sum(-1, keepdim=True)
        latency = (time.perf_counter() - started) / len(requests)
        best = chosen.argmax(-1).tolist()
        return [
            Generation(request.choices[index], tuple(row), 1, latency)
            for request, index, row in zip(requests, best, chosen.tolist(), strict=True)
        ]

    def _continue(
        self,
        logits: Tensor,
        cache: DynamicCache,
        mask: Tensor,
        positions: Tensor,
        requests: Sequence[Request],
        started: float,
    ) -> list[Generation]:
        """Generate until every row has ended or reached its length."""
        eos = self.tokenizer.eos_token_id
        limit = max(request.max_new_tokens for request in requests)
        produced: list[Tensor] = []
        ended = torch.zeros(len(requests), dtype=torch.bool)
        for _ in range(limit):
            token = logits.argmax(-1).masked_fill(ended, eos)  # [Q]
            produced.append(token)
            ended |= token == eos
            if bool(ended.all()) or len(produced) == limit:
                break
            mask = torch.cat([mask, torch.ones(len(requests), 1, dtype=torch.long)], dim=1)
            hidden = self._forward(token[:, None], mask, positions[:, None], cache)
            positions = positions + 1
            logits = self._logits(hidden[:, -1])
        latency = (time.perf_counter() - started) / len(requests)
        generations = []
        for request, row in zip(requests, torch.stack(produced, 1).tolist(), strict=True):
            row = row[: request.max_new_tokens]
            row = row[: row.index(eos)] if eos in row else row
            text = self.tokenizer.decode(row, skip_special_tokens=True)
            generations.append(Generation(str(text).strip(), None, len(row), latency))
        return generations

    def _forward(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        hidden: Tensor = self.model.llm.base_model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.llm.get_output_embeddings()(hidden)
        return logits.float()


def _select(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Return a new cache that holds the given rows of ``cache``, repeats allowed."""
    selected = DynamicCache()
    for index, layer in enumerate(cache.layers):
        selected.update(layer.keys[rows], layer.values[rows], index)
    return selected
