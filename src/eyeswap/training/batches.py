"""Feed the loop: conversations become batches, in worker processes where images have to be decoded.

Batches are made in the order of the steps, a few ahead of training. Where they come from is a function of the step
alone, so a resumed run meets the same ones.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eyeswap.data.instruction import Instruction
from eyeswap.errors import EyeswapError, SpecError
from eyeswap.recipe import Execution, Recipe
from eyeswap.training.collate import Batch, EncodedConversations, pack, pad
from eyeswap.training.order import Rows, batch_order, count_words, published_micro_batches, split_modality_order
from eyeswap.training.vision import VisualSource
from eyeswap.vlm.prompt import Prompt


@dataclass(frozen=True)
class Layout:
    """How conversations become a batch.

    Attributes:
        image_id: stands for a visual token.
        bos_first: whether conversations begin with a beginning-of-sequence token.
        pad_id: fills shorter rows.
        packs: one row for all, instead of one each.
    """

    image_id: int
    bos_first: bool
    pad_id: int
    packs: bool


class _Batches(Dataset[Batch | EyeswapError]):
    """Makes the batch of a pass when it is asked for it."""

    def __init__(self, data: TrainingData, layout: Layout) -> None:
        self._data, self._layout = data, layout

    def __getitem__(self, rows: tuple[int, ...]) -> Batch | EyeswapError:
        """Return the batch of some conversations, or what is wrong with them: raised here, it would lose its form."""
        try:
            return self._make(rows)
        except EyeswapError as error:
            return error

    def _make(self, rows: tuple[int, ...]) -> Batch:
        data, layout = self._data, self._layout
        encoded = [data.conversations[row] for row in rows]
        images = [data.images[row] for row in rows]
        seen = [image for image in images if image is not None]
        num_visual = [0 if image is None else data.source.num_tokens for image in images]
        if layout.packs:
            batch = pack(encoded, num_visual, layout.image_id, layout.bos_first)
        else:
            batch = pad(encoded, num_visual, layout.image_id, layout.bos_first, layout.pad_id)
        return Batch(**{**vars(batch), "visual": data.source.read(seen) if seen else None})


class Feed:
    """The steps of one process, each a list of passes with their batches.

    Args:
        data: what is trained on.
        layout: of batches.
        cutter: cuts global batches into passes.
        rank: number of this process.
        num_workers: processes that make batches; 0 makes them here.
    """

    def __init__(self, data: TrainingData, layout: Layout, cutter: Cutter, rank: int, num_workers: int) -> None:
        self._data, self._cutter, self._rank = data, cutter, rank
        self._batches, self._num_workers = _Batches(data, layout), num_workers

    def steps(self, first: int) -> Iterator[list[tuple[Pass, Batch]]]:
        """Yield the passes of each step from ``first`` on.

        Raises:
            DataError: if an image cannot be read.
        """
        ahead = DataLoader(
            self._batches,
            batch_size=None,
            sampler=_Ahead(self, first),
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the run's random numbers stay untouched
        )
        with _silent_tokenizers():
            made = iter(ahead)  # workers begin here
        for step in range(first, len(self._data.order)):
            yield [(one, _raised(next(made))) for one in self.passes(step)]

    def passes(self, step: int) -> list[Pass]:
        """Return the passes of this process in one step."""
        return [turn[self._rank] for turn in self._cutter.cut(self._data.order[step])]


@contextlib.contextmanager
def _silent_tokenizers() -> Iterator[None]:
    """Keep the tokenizers library from warning of forks; workers use none. Afterwards forks are safe as before."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "true")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _raised(made: Batch | EyeswapError) -> Batch:
    if isinstance(made, EyeswapError):
        raise made
    return made


class _Ahead:
    """The rows of every pass from a step on; what is ahead of training is cut once more, which costs nothing."""

    def __init__(self, feed: Feed, first: int) -> None:
        self._feed, self._first = feed, first

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for step in range(self._first, len(self._feed._data.order)):
            yield from (one.rows for one in self._feed.passes(step))


@dataclass(frozen=True)
class TrainingData:
    """All that a run trains on.

    Attributes:
        conversations: as token ids and labels.
        images: image of each conversation; None for text alone.
        ids: of each conversation, for messages; may repeat.
        num_words: of each conversation, as the published sampler reckons.
        order: ``[steps, batch]`` rows of each global batch.
        source: where visual tokens come from.
    """

    conversations: EncodedConversations
    images: Sequence[str | None]
    ids: Sequence[str]
    num_words: Sequence[int]
    order: Rows
    source: VisualSource

    @property
    def lengths(self) -> list[int]:
        """Positions of each conversation, visual tokens included."""
        visual = self.source.num_tokens if any(image is not None for image in self.images) else 0
        pairs = zip(self.conversations.lengths.tolist(), self.images, strict=True)
        return [text + (visual if image is not None else 0) for text, image in pairs]

    @classmethod
    def of(
        cls,
        instructions: Sequence[Instruction],
        messages: Sequence[Sequence[str]],
        prompt: Prompt,
        tokenizer: Any,
        recipe: Recipe,
        seed: int,
        source: VisualSource,
        advance: Callable[[int], None] = lambda count: None,
    ) -> TrainingData:
        """Encode conversations and draw the order of their batches.

        Args:
            instructions: the records.
            messages: what is said in each, if its boxes were moved to another frame.
            prompt: the chat frame.
            tokenizer: the LLM's.
            recipe: limits, batches, order.
            seed: of the run; draws the order.
            source: where visual tokens come from.
            advance: told how many more conversations are encoded.
        """
        encoded = EncodedConversations.of(messages, prompt, tokenizer, recipe.max_text_tokens, advance)
        return cls.ordered(instructions, encoded, recipe, seed, source)

    @classmethod
    def ordered(
        cls,
        instructions: Sequence[Instruction],
        encoded: EncodedConversations,
        recipe: Recipe,
        seed: int,
        source: VisualSource,
    ) -> TrainingData:
        """Draw the order of the batches of conversations that are encoded; arguments as in `of`."""
        images = [instruction.image for instruction in instructions]
        words = [count_words(instruction.messages) for instruction in instructions]
        order = training_order(instructions, words, recipe, seed)
        return cls(encoded, images, [instruction.record_id for instruction in instructions], words, order, source)


def training_order(instructions: Sequence[Instruction], num_words: Sequence[int], recipe: Recipe, seed: int) -> Rows:
    """Return the rows ``[steps, batch]`` of every global batch; the backbone and the machine have no say in it."""
    if recipe.order == "shuffled":
        return batch_order(len(instructions), recipe.global_batch, recipe.num_epochs, seed, recipe.max_steps)
    has_image = [instruction.image is not None for instruction in instructions]
    return split_modality_order(has_image, num_words, recipe.global_batch, recipe.num_epochs, seed, recipe.max_steps)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of one process.

    Attributes:
        rows: conversations.
        share: what the summed loss counts in the loss of the global batch; 0 repeats conversations to keep processes
            in step.
    """

    rows: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Cutter:
    """Cuts global batches into passes.

    Attributes:
        recipe: its loss and micro-batch.
        execution: its budget of tokens.
        lengths: positions of each conversation, visual tokens included.
        num_targets: predicted tokens of each conversation.
        num_words: words of each conversation, as the published sampler reckons.
        num_ranks: processes that share a global batch.
        packs: whether conversations may share a row.
    """

    recipe: Recipe
    execution: Execution
    lengths: Sequence[int]
    num_targets: Sequence[int]
    num_words: Sequence[int]
    num_ranks: int = 1
    packs: bool = False

    @classmethod
    def of(cls, data: TrainingData, recipe: Recipe, execution: Execution, num_ranks: int, packs: bool) -> Cutter:
        """Return what cuts the global batches of a training set."""
        targets = data.conversations.num_targets.tolist()
        return cls(recipe, execution, data.lengths, targets, data.num_words, num_ranks, packs)

    def __post_init__(self) -> None:
        if self.recipe.loss == "micro-batch-mean" and self.execution.tokens_per_pass is not None:
            raise SpecError("tokens_per_pass: loss micro-batch-mean depends on the micro-batches; leave it out")

    def cut(self, rows: Rows) -> list[list[Pass]]:
        """Return the passes of a global batch: of each turn, one a process."""
        passes = self._passes(rows)
        idle = -len(passes) % self.num_ranks
        shortest = min(passes, key=lambda one: sum(self.lengths[row] for row in one.rows))
        passes += [replace(shortest, share=0.0)] * idle
        return [passes[turn : turn + self.num_ranks] for turn in range(0, len(passes), self.num_ranks)]

    def _passes(self, rows: Rows) -> list[Pass]:
        size, budget = self.recipe.micro_batch or len(rows), self.execution.tokens_per_pass
        if self.recipe.loss == "micro-batch-mean":
            groups = published_micro_batches(rows, self.num_words, self.recipe)
            return [Pass(tuple(group), 1 / (self._targets(group) * len(groups))) for group in groups]
        if budget is None:
            groups = self._of_rows(rows, -(-len(rows) // size))
        elif self.packs:
            groups = self._packed(rows, budget)
        else:
            groups = self._of_like_length(rows, budget)
        share = 1 / self._targets(rows.tolist())
        return [Pass(tuple(group), share) for group in groups]

    def _targets(self, rows: Sequence[int]) -> int:
        return max(1, sum(int(self.num_targets[row]) for row in rows))

    def _sorted(self, rows: Rows) -> list[int]:
        return sorted(rows.tolist(), key=lambda row: self.lengths[row], reverse=True)

    def _of_rows(self, rows: Rows, count: int) -> list[list[int]]:
        """Cut into ``count`` parts, or more so that every process has as many, neighbours in length together."""
        count += -count % self.num_ranks
        if count == 1:
            return [rows.tolist()]
        return [part.tolist() for part in np.array_split(np.array(self._sorted(rows)), count) if len(part)]

    def _of_like_length(self, rows: Rows, budget: int) -> list[list[int]]:
        """Cut the rows, sorted by length, where a padded part would go beyond the budget."""
        groups: list[list[int]] = []
        for row in self._sorted(rows):
            if groups and self.lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    def _packed(self, rows: Rows, budget: int) -> list[list[int]]:
        """Fill as few packs as the budget allows, all of nearly equal length: the longest first, to the emptiest."""
        longest_first = self._sorted(rows)
        count = -(-sum(self.lengths[row] for row in longest_first) // budget)
        while True:
            count += -count % self.num_ranks
            packs: list[list[int]] = [[] for _ in range(count)]
            filled = [(0, number) for number in range(count)]  # tokens in each pack, the emptiest first
            for row in longest_first:
                tokens, number = filled[0]
                packs[number].append(row)
                heapq.heapreplace(filled, (tokens + self.lengths[row], number))
            if all(tokens <= budget or len(packs[number]) == 1 for tokens, number in filled):
                return [pack for pack in packs if pack]
            count += 1
