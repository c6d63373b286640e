"""Answer many questions about many images, greedily, with each image prefilled once.

Every question about an image begins with the same tokens: beginning of sequence, visual tokens, and whatever the
prompts of the batch have in common (the system text, "USER: "). That prefix is found on token ids and goes through
the LLM once an image; its keys and values are then spread over the image's questions, which are sorted by length and
answered in batches. Questions are padded on the right, padded slots are masked, and positions count real
tokens only, so that batch mates cannot change an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from eyeswap.errors import SpecError
from eyeswap.vlm.llm import cache_argument
from eyeswap.vlm.model import VisionLanguageModel

_NO_LIMIT = 10**6  # tokenizers without a longest input name a number beyond this
_LOOK_EVERY = 8  # tokens between two looks at whether an answer is decided


@dataclass(frozen=True)
class Request:
    """A question about one image.

    Attributes:
        prompt: the whole inference prompt.
        choices: single-token strings whose first-token probabilities are wanted; empty for free text.
        max_new_tokens: longest free text.
        is_decided: whether no continuation of a text changes what it scores; generation then ends.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 128
    is_decided: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        text: as generated, or the most probable choice.
        probabilities: of the choices, renormalised among them; None for free text.
        num_tokens: generated tokens, end of sequence not counted.
        latency_s: the LLM's time for the batch, shared out evenly.
    """

    text: str
    probabilities: tuple[float, ...] | None
    num_tokens: int
    latency_s: float


class Question(NamedTuple):
    """A request on its way: the image it is about (row of the batch), the token ids of its prompt."""

    row: int
    ids: list[int]
    request: Request


class Reading(NamedTuple):
    """Prompts after the LLM has read them.

    Attributes:
        logits: ``[Q, V]`` of the first answer token.
        cache: keys and values.
        mask: ``[Q, tokens]``, 0 where a slot is padding.
        positions: ``[Q]`` position of the first answer token.
    """

    logits: Tensor
    cache: Cache
    mask: Tensor
    positions: Tensor


class Generator:
    """Greedy decoding for one VLM, on the device where it lies.

    Args:
        model: the VLM, in eval mode.
        batch: most questions answered together.
    """

    def __init__(self, model: VisionLanguageModel, batch: int = 128) -> None:
        self.model, self.batch = model, batch
        self._cache_argument = cache_argument(model.llm)
        self.tokenizer = model.tokenizer
        ends = getattr(getattr(model.llm, "generation_config", None), "eos_token_id", None)
        self._ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    @property
    def device(self) -> torch.device:
        """Where the LLM lies."""
        weight: Tensor = self.model.llm.get_input_embeddings().weight
        return weight.device

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of whole prompts, cut after the tokenizer's longest input."""
        longest = self.tokenizer.model_max_length
        limit = {"truncation": True, "max_length": longest} if longest < _NO_LIMIT else {}
        ids: list[list[int]] = self.tokenizer(list(prompts), add_special_tokens=True, **limit)["input_ids"]
        return ids

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

    def answer(
        self, visual_tokens: Tensor | Sequence[Tensor], questions: Sequence[Sequence[Request]]
    ) -> list[list[Generation]]:
        """Answer the questions about some images.

        Args:
            visual_tokens: ``[N, vision_width]`` of each image; ``N`` may vary.
            questions: the requests about each image, of any kinds.

        Returns:
            The answers to each image's questions.
        """
        answers: dict[int, list[Generation]] = {}
        for size in {len(tokens) for tokens in visual_tokens}:
            rows = [row for row, tokens in enumerate(visual_tokens) if len(tokens) == size and questions[row]]
            told = self._answer_or_halve([visual_tokens[row] for row in rows], [questions[row] for row in rows])
            answers |= zip(rows, told, strict=True)
        return [answers.get(row, []) for row in range(len(questions))]

    def _answer_or_halve(
        self, visual_tokens: Sequence[Tensor], questions: Sequence[Sequence[Request]]
    ) -> list[list[Generation]]:
        """Answer; if a GPU's memory is too small for all questions, answer half of them at a time."""
        try:
            return self._answer(visual_tokens, questions)
        except torch.OutOfMemoryError:
            if sum(map(len, questions)) == 1:
                raise
        torch.cuda.empty_cache()
        if len(questions) > 1:
            half = len(questions) // 2
            first = self._answer_or_halve(visual_tokens[:half], questions[:half])
            return first + self._answer_or_halve(visual_tokens[half:], questions[half:])
        half = len(questions[0]) // 2
        parts = [self._answer_or_halve(visual_tokens, [part]) for part in (questions[0][:half], questions[0][half:])]
        return [parts[0][0] + parts[1][0]]

    @torch.inference_mode()
    def _answer(
        self, visual_tokens: Sequence[Tensor], questions: Sequence[Sequence[Request]]
    ) -> list[list[Generation]]:
        """Answer questions about images of equally many tokens."""
        flat = [(row, request) for row, requests in enumerate(questions) for request in requests]
        if not flat:
            return []
        ids = self.prompt_ids([request.prompt for _, request in flat])
        asked = [Question(row, one, request) for (row, request), one in zip(flat, ids, strict=True)]
        started = time.perf_counter()
        prefix = self._prefill(torch.stack(list(visual_tokens)), shared_prefix(ids))
        prefill_s = (time.perf_counter() - started) / len(asked)
        answers: dict[int, Generation] = {}
        for numbers in buckets(asked, self.batch):
            answers |= zip(numbers, self._answer_bucket(prefix, [asked[n] for n in numbers], prefill_s), strict=True)
        in_order = (answers[number] for number in range(len(asked)))
        return [[next(in_order) for _ in requests] for requests in questions]

    def _prefill(self, visual_tokens: Tensor, ids: list[int]) -> tuple[DynamicCache, int]:
        """Send what all prompts share through the LLM, once an image; return the cache and the number of shared ids."""
        text = torch.tensor(ids, dtype=torch.long, device=self.device).expand(len(visual_tokens), -1)
        embedded = self.model.embed(visual_tokens.to(self.device), text)
        cache = DynamicCache()
        self.model.llm.base_model(inputs_embeds=embedded, use_cache=True, **{self._cache_argument: cache})
        return cache, len(ids)

    def _answer_bucket(
        self, prefix: tuple[DynamicCache, int], asked: Sequence[Question], prefill_s: float
    ) -> list[Generation]:
        started = time.perf_counter()
        reading = self._read(prefix, asked)
        requests = [question.request for question in asked]
        choices = requests[0].choices
        answers: list[tuple[str, tuple[float, ...] | None, int]]
        if choices:  # read off the first position: nothing is generated
            chances = reading.logits[:, self.choice_ids(choices)].softmax(-1).tolist()  # [Q, choices]
            answers = [(choices[row.index(max(row))], tuple(row), 1) for row in chances]
        else:
            answers = [(self._text(tokens), None, len(tokens)) for tokens in self._continue(reading, requests)]
        latency = (time.perf_counter() - started) / len(asked) + prefill_s
        return [Generation(*answer, latency) for answer in answers]

    def _read(self, prefix: tuple[DynamicCache, int], asked: Sequence[Question]) -> Reading:
        """Send what the prompts do not share through the LLM."""
        past, shared = prefix
        tokens, mask = padded([question.ids[shared:] for question in asked], self.device)  # [Q, T], [Q, T]
        rows = torch.tensor([question.row for question in asked], device=self.device)
        cache = spread(past, rows, tokens.shape[1])
        before = past.get_seq_length()
        lengths = mask.sum(1)
        mask = torch.cat([mask.new_ones(len(asked), before), mask], dim=1)
        positions = (before + torch.arange(tokens.shape[1], device=self.device)).expand(len(asked), -1)
        hidden = self._forward(tokens, mask, positions, cache)  # [Q, T, D]
        last = hidden[torch.arange(len(asked), device=self.device), lengths - 1]
        return Reading(self._logits(last), cache, mask, before + lengths)

    def _continue(self, reading: Reading, requests: Sequence[Request]) -> list[list[int]]:
        """Generate until every answer has ended, is decided or reached its length; ended rows leave the batch."""
        logits, cache, mask, positions = reading
        produced: list[list[int]] = [[] for _ in requests]
        rows = list(range(len(requests)))  # which request each row of the batch answers
        while True:
            token = logits.argmax(-1)  # [Q]
            alive = []
            for place, (row, one) in enumerate(zip(rows, token.tolist(), strict=True)):
                if row >= 0 and self._goes_on(produced[row], one, requests[row]):
                    alive.append(place)
                else:
                    rows[place] = -1
            if not alive:
                return produced
            if 2 * len(alive) <= len(rows):
                kept = torch.tensor(alive, device=self.device)
                keep_rows(cache, kept)
                rows = [rows[place] for place in alive]
                token, mask, positions = token[kept], mask[kept], positions[kept]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._logits(self._forward(token[:, None], mask, positions[:, None], cache)[:, -1])
            positions = positions + 1

    def _goes_on(self, produced: list[int], token: int, request: Request) -> bool:
        """Take one more token into an answer unless it ends it; return whether another is wanted."""
        if token in self._ends:
            return False
        produced.append(token)
        if len(produced) >= request.max_new_tokens:
            return False
        if request.is_decided is None or len(produced) % _LOOK_EVERY:
            return True
        return not request.is_decided(self._text(produced))

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _forward(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        hidden: Tensor = self.model.llm.base_model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_argument: cache},
        ).last_hidden_state
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.llm.get_output_embeddings()(hidden)
        return logits.float()


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the token ids that all prompts begin with; at least one token of each prompt is left out.

    Example:
        >>> shared_prefix([[1, 7, 8], [1, 7, 9, 3]])
        [1, 7]
    """
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: min(length, *(len(prompt) - 1 for prompt in prompts))]


def buckets(asked: Sequence[Question], most: int) -> Iterator[list[int]]:
    """Yield the numbers of questions that are answered together.

    They are of one kind, at most ``most``, and none is more than twice as long as the shortest.
    """
    kinds: dict[tuple[str, ...], list[int]] = {}
    for number in sorted(range(len(asked)), key=lambda number: len(asked[number].ids)):
        kinds.setdefault(asked[number].request.choices, []).append(number)
    for numbers in kinds.values():
        bucket: list[int] = []
        for number in numbers:
            if bucket and (len(bucket) == most or len(asked[number].ids) > 2 * len(asked[bucket[0]].ids)):
                yield bucket
                bucket = []
            bucket.append(number)
        yield bucket


def padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right, ``[Q, T]``, and the mask of real ones, ``[Q, T]``."""
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return tokens, mask


_ROOM = 16  # tokens that a buffer grows by


def spread(prefix: DynamicCache, rows: Tensor, num_tokens: int) -> Cache:
    """Return a cache whose row ``i`` continues row ``rows[i]`` of ``prefix``, rows ``[Q]``.

    Args:
        prefix: the cache to continue; it is not changed.
        rows: ``[Q]`` row numbers, repeats allowed.
        num_tokens: length of what comes next; room for it is made at once.
    """
    return Cache(layers=[_RoomyLayer(layer.keys, layer.values, rows, num_tokens) for layer in prefix.layers])


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Drop all rows of a cache but ``rows``, ``[Q]``."""
    for layer in cache.layers:
        layer.keep_rows(rows)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers carries no types
    """One layer; ``keys`` and ``values`` are ``[Q, heads, tokens, d]`` views of larger buffers."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, room: int) -> None:
        super().__init__()
        self.is_initialized, self.dtype, self.device = True, keys.dtype, keys.device
        self._length = keys.shape[-2]
        self._keys, self._values = (_roomy(past.index_select(0, rows), room) for past in (keys, values))
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values ``[Q, heads, new, d]``; return all of them, ``[Q, heads, tokens, d]``."""
        end = self._length + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            room = end - self._length + _ROOM
            self._keys, self._values = _roomy(self.keys, room), _roomy(self.values, room)
        self._keys[:, :, self._length : end] = key_states
        self._values[:, :, self._length : end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but ``rows``, ``[Q]``."""
        self._keys, self._values = (_roomy(past.index_select(0, rows), _ROOM) for past in (self.keys, self.values))
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in (self._keys, self._values))


def _roomy(past: Tensor, room: int) -> Tensor:
    """Return a copy of ``past`` ``[Q, heads, tokens, d]`` with room for more tokens."""
    rows, heads, length, width = past.shape
    buffer = past.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = past
    return buffer
