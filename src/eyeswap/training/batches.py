"""The batches of training: planned as passes of global batches, and made ahead of training in worker processes.

The rows of every pass are a function of the step alone, so a resumed run gets the same batches.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eyeswap.data.instruction import Instruction
from eyeswap.errors import EyeswapError, SpecError
from eyeswap.processes import leave_sigterm_to_parent
from eyeswap.recipe import Execution, Recipe
from eyeswap.training.collate import Batch, EncodedConversations, pack, pad
from eyeswap.training.order import Rows, batch_order, count_words, published_micro_batches, split_modality_order
from eyeswap.training.vision import VisualSource


@dataclass(frozen=True)
class Layout:
    """How conversations are laid out in a batch.

    Attributes:
        image_id: token id that stands for a visual token.
        bos_first: whether conversations begin with a beginning-of-sequence token.
        pad_id: token id that fills shorter rows.
        packs: whether all conversations share one row, instead of one row each.
    """

    image_id: int
    bos_first: bool
    pad_id: int
    packs: bool


class _Batches(Dataset[Batch | EyeswapError]):
    """A data set whose items are the batches of passes."""

    def __init__(self, data: TrainingData, layout: Layout) -> None:
        self._data, self._layout = data, layout

    def __getitem__(self, rows: tuple[int, ...]) -> Batch | EyeswapError:
        """Return the batch of some conversations, or the error: raising it in a worker would garble its message."""
        try:
            return self._make(rows)
        except EyeswapError as error:
            return error

    def _make(self, rows: tuple[int, ...]) -> Batch:
        data, layout = self._data, self._layout
        encoded = [data.conversations[row] for row in rows]
        images = [data.images[row] for row in rows]
        present = [image for image in images if image is not None]
        num_visual = [0 if image is None else data.source.num_tokens for image in images]
        if layout.packs:
            batch = pack(encoded, num_visual, layout.image_id, layout.bos_first)
        else:
            batch = pad(encoded, num_visual, layout.image_id, layout.bos_first, layout.pad_id)
        return Batch(**{**vars(batch), "visual": data.source.read(present) if present else None})


class BatchLoader:
    """Loads the steps of one process, each a list of passes with their batches.

    Args:
        data: the training data.
        layout: layout of the batches.
        planner: divides global batches into passes.
        rank: rank of this process.
        num_workers: processes that make batches; 0 makes them in this process.
    """

    def __init__(self, data: TrainingData, layout: Layout, planner: BatchPlanner, rank: int, num_workers: int) -> None:
        self._data, self._planner, self._rank = data, planner, rank
        self._batches, self._num_workers = _Batches(data, layout), num_workers

    def steps(self, first: int) -> Iterator[list[tuple[Pass, Batch]]]:
        """Yield the passes of each step, starting with step ``first``.

        Raises:
            DataError: if an image cannot be read.
        """
        loader = DataLoader(
            self._batches,
            batch_size=None,
            sampler=_PassRows(self, first),
            num_workers=self._num_workers,
            worker_init_fn=leave_sigterm_to_parent,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # so that the loader does not draw from the run's global generator
        )
        with _silent_tokenizers():
            batches = iter(loader)  # starts the workers
        for step in range(first, len(self._data.order)):
            yield [(planned, _raised(next(batches))) for planned in self.passes(step)]

    def passes(self, step: int) -> list[Pass]:
        """Return the passes of this process in one step."""
        return [turn[self._rank] for turn in self._planner.plan(self._data.order[step])]


@contextlib.contextmanager
def _silent_tokenizers() -> Iterator[None]:
    """Suppress the fork warning of the tokenizers library while workers start; they use no tokenizer."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "true")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _raised(batch: Batch | EyeswapError) -> Batch:
    if isinstance(batch, EyeswapError):
        raise batch
    return batch


class _PassRows:
    """A sampler of the rows of every pass from a step on; planning them twice costs next to nothing."""

    def __init__(self, loader: BatchLoader, first: int) -> None:
        self._loader, self._first = loader, first

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for step in range(self._first, len(self._loader._data.order)):
            yield from (planned.rows for planned in self._loader.passes(step))


@dataclass(frozen=True)
class TrainingData:
    """The training data of a run.

    Attributes:
        conversations: token ids and labels.
        images: image of each conversation; None for a text-only one.
        ids: id of each conversation, for messages; may repeat.
        num_words: words of each conversation, as the published sampler counts them.
        order: ``[steps, batch]`` rows of each global batch.
        source: source of visual tokens.
    """

    conversations: EncodedConversations
    images: Sequence[str | None]
    ids: Sequence[str]
    num_words: Sequence[int]
    order: Rows
    source: VisualSource

    @property
    def lengths(self) -> list[int]:
        """Positions of each conversation, including visual tokens."""
        visual = self.source.num_tokens if any(image is not None for image in self.images) else 0
        pairs = zip(self.conversations.lengths.tolist(), self.images, strict=True)
        return [text + (visual if image is not None else 0) for text, image in pairs]

    @classmethod
    def of(
        cls,
        instructions: Sequence[Instruction],
        encoded: EncodedConversations,
        recipe: Recipe,
        seed: int,
        source: VisualSource,
    ) -> TrainingData:
        """Draw the batch order of tokenized conversations.

        Args:
            instructions: the records.
            encoded: their conversations as tokens, with boxes in the frame of the recipe.
            recipe: batch size, epochs and kind of order.
            seed: seed of the run, which draws the order.
            source: source of visual tokens.
        """
        images = [instruction.image for instruction in instructions]
        words = [count_words(instruction.messages) for instruction in instructions]
        order = training_order(instructions, words, recipe, seed)
        return cls(encoded, images, [instruction.record_id for instruction in instructions], words, order, source)


def training_order(instructions: Sequence[Instruction], num_words: Sequence[int], recipe: Recipe, seed: int) -> Rows:
    """Return the rows ``[steps, batch]`` of every global batch, independent of the backbone and the machine."""
    if recipe.order == "shuffled":
        return batch_order(len(instructions), recipe.global_batch, recipe.num_epochs, seed, recipe.max_steps)
    has_image = [instruction.image is not None for instruction in instructions]
    return split_modality_order(has_image, num_words, recipe.global_batch, recipe.num_epochs, seed, recipe.max_steps)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of one process.

    Attributes:
        rows: rows of its conversations.
        share: weight of its summed loss in the loss of the global batch; 0 for a repeated pass that only keeps this
            process in step with the others.
    """

    rows: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class BatchPlanner:
    """Divides global batches into passes.

    Attributes:
        recipe: loss and micro-batch size.
        execution: token budget per pass.
        lengths: positions of each conversation, including visual tokens.
        num_targets: predicted tokens of each conversation.
        num_words: words of each conversation, as the published sampler counts them.
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
    def of(cls, data: TrainingData, recipe: Recipe, execution: Execution, num_ranks: int, packs: bool) -> BatchPlanner:
        """Return the planner of a training set."""
        targets = data.conversations.num_targets.tolist()
        return cls(recipe, execution, data.lengths, targets, data.num_words, num_ranks, packs)

    def __post_init__(self) -> None:
        if self.recipe.loss == "micro-batch-mean" and self.execution.tokens_per_pass is not None:
            raise SpecError("tokens_per_pass: loss micro-batch-mean depends on the micro-batches; remove this key")

    def plan(self, rows: Rows) -> list[list[Pass]]:
        """Return the passes of a global batch as a list of turns, each with one pass per process."""
        passes = self._passes(rows)
        num_idle = -len(passes) % self.num_ranks
        shortest = min(passes, key=lambda planned: sum(self.lengths[row] for row in planned.rows))
        passes += [replace(shortest, share=0.0)] * num_idle
        return [passes[turn : turn + self.num_ranks] for turn in range(0, len(passes), self.num_ranks)]

    def _passes(self, rows: Rows) -> list[Pass]:
        size, budget = self.recipe.micro_batch or len(rows), self.execution.tokens_per_pass
        if self.recipe.loss == "micro-batch-mean":
            groups = published_micro_batches(rows, self.num_words, self.recipe)
            return [Pass(tuple(group), 1 / (self._targets(group) * len(groups))) for group in groups]
        if budget is None:
            groups = self._equal_parts(rows, -(-len(rows) // size))
        elif self.packs:
            groups = self._packed(rows, budget)
        else:
            groups = self._within_budget(rows, budget)
        share = 1 / self._targets(rows.tolist())
        return [Pass(tuple(group), share) for group in groups]

    def _targets(self, rows: Sequence[int]) -> int:
        return max(1, sum(int(self.num_targets[row]) for row in rows))

    def _sorted(self, rows: Rows) -> list[int]:
        return sorted(rows.tolist(), key=lambda row: self.lengths[row], reverse=True)

    def _equal_parts(self, rows: Rows, count: int) -> list[list[int]]:
        """Divide rows sorted by length into ``count`` parts, rounded up to a multiple of the number of processes."""
        count += -count % self.num_ranks
        if count == 1:
            return [rows.tolist()]
        return [part.tolist() for part in np.array_split(np.array(self._sorted(rows)), count) if len(part)]

    def _within_budget(self, rows: Rows, budget: int) -> list[list[int]]:
        """Divide rows sorted by length into parts whose padded size stays within the budget."""
        groups: list[list[int]] = []
        for row in self._sorted(rows):
            if groups and self.lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    def _packed(self, rows: Rows, budget: int) -> list[list[int]]:
        """Fill as few packs as the budget allows, of nearly equal length: longest row first, into the emptiest pack."""
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
