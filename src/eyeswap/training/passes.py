"""How one global batch is cut into forward passes and shared between processes.

What a global batch holds is decided elsewhere (`eyeswap.data.order`). With the loss ``token-mean`` every cut gives the
same gradient, so passes are made to waste little: packed to a budget of tokens, or of rows of like length. With
``micro-batch-mean`` the cut decides the loss, so it is the published one, whatever the number of processes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eyeswap.data.order import Rows, dealt
from eyeswap.errors import SpecError
from eyeswap.recipe import Execution, Recipe
from eyeswap.training.examples import TrainingData


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
            groups = [hand.tolist() for hand in dealt(rows, self.num_words, len(rows) // size)]
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
