"""Answer many questions about many images, greedily, with each image prefilled once.

Every question about an image begins with the same tokens: beginning of sequence, visual tokens, and whatever the
prompts of the batch have in common (the system text, "USER: "). That prefix is found on token ids and goes through
the LLM once an image; questions are sorted by length and read on from there in batches (`eyeswap.vlm.reading`).
Batch mates cannot change an answer.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eyeswap.vlm.decoder import Decoder, has_attention_alone
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.prompt_check import choice_ids, end_of_answer, known_ends
from eyeswap.vlm.reading import Prompt, Reading, SharedPrefix, WholePrompts
from eyeswap.vlm.text_ids import text_ids

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


class Generator:
    """Greedy decoding for one VLM, on the device where it lies.

    Args:
        model: the VLM, in eval mode.
        batch: most questions answered together.
    """

    def __init__(self, model: VisionLanguageModel, batch: int = 128) -> None:
        self.model, self.batch = model, batch
        self._decoder, self._has_attention_alone = Decoder(model.llm), has_attention_alone(model.llm)
        self.tokenizer = model.tokenizer
        self._choices = functools.cache(lambda choices: choice_ids(model.tokenizer, model.prompt, choices))
        ends = known_ends(self.tokenizer, model.generation_config)
        self._ends = {*ends, end_of_answer(self.tokenizer, model.prompt, ends)}

    @property
    def device(self) -> torch.device:
        """Where the LLM lies."""
        weight: Tensor = self.model.llm.get_input_embeddings().weight
        return weight.device

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of whole prompts, cut after the tokenizer's longest input."""
        longest = self.tokenizer.model_max_length
        return [ids[:longest] for ids in text_ids(self.tokenizer, prompts, begins=True)]

    def choice_ids(self, choices: Sequence[str]) -> list[int]:
        """Return the token of each choice, see `eyeswap.vlm.prompt_check.choice_ids`.

        Raises:
            SpecError: if a choice is not exactly one token of this LLM.
        """
        return list(self._choices(tuple(choices))[1])

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
        ids = [
            prompt + self._choices(request.choices)[0]
            for (_, request), prompt in zip(flat, self.prompt_ids([request.prompt for _, request in flat]), strict=True)
        ]
        asked = [Question(row, one, request) for (row, request), one in zip(flat, ids, strict=True)]
        started = time.perf_counter()
        reader = self._reader(torch.stack(list(visual_tokens)).to(self.device), ids)
        prefill_s = (time.perf_counter() - started) / len(asked)
        answers: dict[int, Generation] = {}
        for numbers in buckets(asked, self.batch, of_one_length=not self._has_attention_alone):
            answers |= zip(numbers, self._answer_bucket(reader, [asked[n] for n in numbers], prefill_s), strict=True)
        in_order = (answers[number] for number in range(len(asked)))
        return [[next(in_order) for _ in requests] for requests in questions]

    def _reader(self, visual_tokens: Tensor, ids: Sequence[list[int]]) -> SharedPrefix | WholePrompts:
        """Return what reads the prompts ``ids`` about images ``[I, N, vision_width]``."""
        if self._has_attention_alone:
            return SharedPrefix(self.model, self._decoder, visual_tokens, shared_prefix(ids))
        return WholePrompts(self.model, self._decoder, visual_tokens)

    def _answer_bucket(
        self, reader: SharedPrefix | WholePrompts, asked: Sequence[Question], prefill_s: float
    ) -> list[Generation]:
        started = time.perf_counter()
        reading = reader.read([Prompt(question.row, question.ids) for question in asked])
        requests = [question.request for question in asked]
        choices = requests[0].choices
        answers: list[tuple[str, tuple[float, ...] | None, int]]
        if choices:  # read off the first position: nothing is generated
            chances = self._logits(reading.hidden)[:, self.choice_ids(choices)].softmax(-1).tolist()  # [Q, choices]
            answers = [(choices[row.index(max(row))], tuple(row), 1) for row in chances]
        else:
            answers = [(self._text(tokens), None, len(tokens)) for tokens in self._continue(reading, requests)]
        latency = (time.perf_counter() - started) / len(asked) + prefill_s
        return [Generation(*answer, latency) for answer in answers]

    def _continue(self, reading: Reading, requests: Sequence[Request]) -> list[list[int]]:
        """Generate until every answer has ended, is decided or reached its length; ended rows leave the batch."""
        hidden, cache, mask, positions = reading
        produced: list[list[int]] = [[] for _ in requests]
        rows = list(range(len(requests)))  # which request each row of the batch answers
        while True:
            token = self._logits(hidden).argmax(-1)  # [Q]
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
                cache.reorder_cache(kept)
                rows = [rows[place] for place in alive]
                token, positions = token[kept], positions[kept]
                mask = None if mask is None else mask[kept]
            mask = None if mask is None else torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            steps, cache = self._decoder(cache, mask, positions[:, None], input_ids=token[:, None])  # [Q, 1, D]
            hidden, positions = steps[:, -1], positions + 1

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

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return ``[Q, V]`` logits; the image token, which stands for an image, is never generated."""
        logits: Tensor = self.model.llm.get_output_embeddings()(hidden).float()
        image_id = self.model.config.image_token_id
        logits[:, image_id : image_id + 1] = -torch.inf  # an empty slice if it lies beyond the vocabulary
        return logits


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the token ids that all prompts begin with; at least one token of each prompt is left out.

    Example:
        >>> shared_prefix([[1, 7, 8], [1, 7, 9, 3]])
        [1, 7]
    """
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: min(length, *(len(prompt) - 1 for prompt in prompts))]


def buckets(asked: Sequence[Question], most: int, of_one_length: bool = False) -> Iterator[list[int]]:
    """Yield the numbers of questions that are answered together.

    They are of one kind, at most ``most``, and none is more than twice as long as the shortest; or all as long.
    """
    kinds: dict[tuple[str, ...], list[int]] = {}
    for number in sorted(range(len(asked)), key=lambda number: len(asked[number].ids)):
        kinds.setdefault(asked[number].request.choices, []).append(number)
    for numbers in kinds.values():
        bucket: list[int] = []
        for number in numbers:
            longest = len(asked[bucket[0]].ids) * (1 if of_one_length else 2) if bucket else 0
            if bucket and (len(bucket) == most or len(asked[number].ids) > longest):
                yield bucket
                bucket = []
            bucket.append(number)
        yield bucket
