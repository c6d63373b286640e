"""Greedy answers to many questions about many images, each image prefilled once.

All questions about an image begin with the same tokens: beginning of sequence, visual tokens, and what the prompts of
the batch have in common (the system text, "USER: "). This prefix is determined on token ids and prefilled once per
image; questions are sorted by length and continue from it in batches (`eyeswap.vlm.reading`). The answers do not depend
on what else is in a batch.
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

_CHECK_EVERY = 8  # tokens between two checks of whether an answer is decided


@dataclass(frozen=True)
class Request:
    """A question about one image.

    Attributes:
        prompt: the complete inference prompt.
        choices: single-token strings whose first-token probabilities are compared; empty for free text.
        max_new_tokens: longest free text.
        is_decided: whether no continuation of a text can change its score, so that generation may stop.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 128
    is_decided: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        text: the generated text, or the most probable choice.
        probabilities: of the choices, normalised over them; None for free text.
        num_tokens: generated tokens without the end of sequence.
        latency_s: the LLM's time for the batch, divided evenly among its questions.
    """

    text: str
    probabilities: tuple[float, ...] | None
    num_tokens: int
    latency_s: float


class Question(NamedTuple):
    """A request with the row of its image in the batch and the token ids of its prompt."""

    row: int
    ids: list[int]
    request: Request


class Generator:
    """Greedy decoding with one VLM, on the VLM's device.

    Args:
        model: the VLM, in eval mode.
        batch: largest number of questions answered together.
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
        """Device of the LLM."""
        weight: Tensor = self.model.llm.get_input_embeddings().weight
        return weight.device

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompts, truncated to the tokenizer's longest input."""
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
            questions: the requests about each image, of any kind.

        Returns:
            The answers to each image's questions.
        """
        answers: dict[int, list[Generation]] = {}
        for size in {len(tokens) for tokens in visual_tokens}:
            rows = [row for row, tokens in enumerate(visual_tokens) if len(tokens) == size and questions[row]]
            generations = self._answer_or_halve([visual_tokens[row] for row in rows], [questions[row] for row in rows])
            answers |= zip(rows, generations, strict=True)
        return [answers.get(row, []) for row in range(len(questions))]

    def _answer_or_halve(
        self, visual_tokens: Sequence[Tensor], questions: Sequence[Sequence[Request]]
    ) -> list[list[Generation]]:
        """Answer all questions at once, or in halves if the GPU runs out of memory."""
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
        """Answer questions about images with the same number of visual tokens."""
        flat = [(row, request) for row, requests in enumerate(questions) for request in requests]
        if not flat:
            return []
        ids = [
            prompt + self._choices(request.choices)[0]
            for (_, request), prompt in zip(flat, self.prompt_ids([request.prompt for _, request in flat]), strict=True)
        ]
        asked = [Question(row, prompt, request) for (row, request), prompt in zip(flat, ids, strict=True)]
        started = time.perf_counter()
        reader = self._reader(torch.stack(list(visual_tokens)).to(self.device), ids)
        prefill_s = (time.perf_counter() - started) / len(asked)
        answers: dict[int, Generation] = {}
        for numbers in buckets(asked, self.batch, of_one_length=not self._has_attention_alone):
            answers |= zip(numbers, self._answer_bucket(reader, [asked[n] for n in numbers], prefill_s), strict=True)
        in_order = (answers[number] for number in range(len(asked)))
        return [[next(in_order) for _ in requests] for requests in questions]

    def _reader(self, visual_tokens: Tensor, ids: Sequence[list[int]]) -> SharedPrefix | WholePrompts:
        """Return the reader of prompts with token ids ``ids`` about images ``[I, N, vision_width]``."""
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
        if choices:  # read from the logits at the end of the prompt: nothing is generated
            probabilities = self._logits(reading.hidden)[:, self.choice_ids(choices)].softmax(-1).tolist()
            answers = [(choices[row.index(max(row))], tuple(row), 1) for row in probabilities]
        else:
            answers = [(self._text(tokens), None, len(tokens)) for tokens in self._continue(reading, requests)]
        latency = (time.perf_counter() - started) / len(asked) + prefill_s
        return [Generation(*answer, latency) for answer in answers]

    def _continue(self, reading: Reading, requests: Sequence[Request]) -> list[list[int]]:
        """Generate until each answer has ended, is decided or is long enough; finished rows leave the batch."""
        hidden, cache, mask, positions = reading
        produced: list[list[int]] = [[] for _ in requests]
        requests_of_rows = list(range(len(requests)))  # number of each row's request; -1 once it is answered
        while True:
            token = self._logits(hidden).argmax(-1)  # [Q]
            unfinished = []
            for row, (number, token_id) in enumerate(zip(requests_of_rows, token.tolist(), strict=True)):
                if number >= 0 and self._continues(produced[number], token_id, requests[number]):
                    unfinished.append(row)
                else:
                    requests_of_rows[row] = -1
            if not unfinished:
                return produced
            if 2 * len(unfinished) <= len(requests_of_rows):  # copying the cache pays once half of the rows are done
                kept = torch.tensor(unfinished, device=self.device)
                cache.reorder_cache(kept)
                requests_of_rows = [requests_of_rows[row] for row in unfinished]
                token, positions = token[kept], positions[kept]
                mask = None if mask is None else mask[kept]
            mask = None if mask is None else torch.cat([mask, mask.new_ones(len(requests_of_rows), 1)], dim=1)
            steps, cache = self._decoder(cache, mask, positions[:, None], input_ids=token[:, None])  # [Q, 1, D]
            hidden, positions = steps[:, -1], positions + 1

    def _continues(self, produced: list[int], token: int, request: Request) -> bool:
        """Append a token to an answer unless it ends the answer; return whether another token is needed."""
        if token in self._ends:
            return False
        produced.append(token)
        if len(produced) >= request.max_new_tokens:
            return False
        if request.is_decided is None or len(produced) % _CHECK_EVERY:
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
    """Return the token ids that all prompts begin with, but never all of a prompt.

    Example:
        >>> shared_prefix([[1, 7, 8], [1, 7, 9, 3]])
        [1, 7]
    """
    first, last = min(prompts), max(prompts)  # in lexicographic order, what the outermost two share is shared by all
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: min(length, *(len(prompt) - 1 for prompt in prompts))]


def buckets(asked: Sequence[Question], most: int, of_one_length: bool = False) -> Iterator[list[int]]:
    """Yield the numbers of questions that are answered together.

    Each bucket has at most ``most`` questions with the same choices, none more than twice as long as its shortest; with
    ``of_one_length`` all are equally long.
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
