"""Turn conversations into token ids and labels, and several of them into one batch: padded rows, or one packed row.

In a batch, the id of ``<image>`` stands where each visual token goes: behind the beginning-of-sequence token, or in
front where the LLM has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from eyeswap.vlm.model import IGNORED
from eyeswap.vlm.prompt import Prompt
from eyeswap.vlm.text_ids import insert_visual, turn_ids

_AT_ONCE = 1024  # conversations that the tokenizer gets in one call


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids and labels of equal length; labels are `IGNORED` outside of answers."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def encode_conversation(
    messages: Sequence[str], prompt: Prompt, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Encoded:
    """Tokenise a conversation turn by turn, as the published code does.

    Every turn's text is stripped on the right (in the Vicuna frame) and tokenised by itself; only the first
    carries the beginning-of-sequence token; the lists are concatenated and cut after ``max_tokens``.

    Args:
        messages: human, assistant, human, ...
        prompt: the chat frame.
        tokenizer: the LLM's tokenizer.
        max_tokens: cut after this many tokens.
    """
    return EncodedConversations.of([messages], prompt, tokenizer, max_tokens)[0]


class EncodedConversations:
    """Many conversations in three flat arrays: 5 bytes a token, whatever their number.

    Attributes:
        ids: ``[tokens]`` token ids of all conversations, one after another.
        is_target: ``[tokens]`` whether a token belongs to an answer.
        starts: ``[conversations + 1]`` where each begins.
    """

    def __init__(
        self, ids: npt.NDArray[np.int32], is_target: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]
    ) -> None:
        self.ids, self.is_target, self.starts = ids, is_target, starts

    @classmethod
    def of(
        cls,
        conversations: Sequence[Sequence[str]],
        prompt: Prompt,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Self:
        """Encode conversations as `encode_conversation` does; ``advance`` is told how many more are done."""
        ids: list[npt.NDArray[np.int32]] = []
        targets: list[npt.NDArray[np.bool_]] = []
        for start in range(0, len(conversations), _AT_ONCE):
            some = conversations[start : start + _AT_ONCE]
            for pieces, answers in turn_ids(tokenizer, prompt, some):
                row = np.array([token for piece in pieces for token in piece][:max_tokens], dtype=np.int32)
                ids.append(row)
                targets.append(np.repeat(answers, [len(piece) for piece in pieces])[: len(row)])
            advance(len(some))
        starts = np.array([0, *accumulate(map(len, ids))], dtype=np.int64)
        return cls(np.concatenate(ids), np.concatenate(targets), starts)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``[conversations]`` text tokens of each."""
        return np.diff(self.starts)

    @cached_property
    def num_targets(self) -> npt.NDArray[np.int64]:
        """``[conversations]`` tokens of each that are predicted: those of answers, never a first token."""
        counts = np.concatenate([[0], np.cumsum(self.is_target)])
        return np.diff(counts[self.starts]) - self.is_target[self.starts[:-1]]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Encoded:
        """Return the conversation of one row number."""
        part = slice(self.starts[row], self.starts[row + 1])
        ids = self.ids[part]
        labels = np.where(self.is_target[part], ids, IGNORED)
        return Encoded(tuple(ids.tolist()), tuple(labels.tolist()))


@dataclass(frozen=True)
class Batch:
    """What one forward pass over some conversations takes.

    Attributes:
        input_ids: ``[B, T]`` with the image id where visual tokens go.
        target_at: ``[K]`` positions in ``[B * T]`` whose next token is predicted.
        targets: ``[K]`` those next tokens.
        position_ids: ``[1, T]`` positions within each conversation, if packed.
        starts: ``[conversations + 1]`` int32, where each begins in the packed row.
        longest: tokens of the longest conversation, if packed.
        visual: what the visual tokens come from (see `eyeswap.training.vision`); None for text alone.
    """

    input_ids: Tensor
    target_at: Tensor
    targets: Tensor
    position_ids: Tensor | None = None
    starts: Tensor | None = None
    longest: int = 0
    visual: Tensor | None = None

    @property
    def num_positions(self) -> int:
        """Positions that the LLM computes, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; every tensor keeps its shape."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, from where a GPU copies faster; every tensor keeps its shape."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**{**vars(self), **changed})


def pad(rows: Sequence[Encoded], num_visual: Sequence[int], image_id: int, bos_first: bool, pad_id: int) -> Batch:
    """Stack conversations as rows, padded on the right, where a causal model never looks.

    Args:
        rows: the conversations.
        num_visual: visual tokens of each; 0 without image.
        image_id: stands for a visual token.
        bos_first: whether conversations begin with a beginning-of-sequence token.
        pad_id: fills the shorter rows.
    """
    roomy = [_make_room(row, count, image_id, bos_first) for row, count in zip(rows, num_visual, strict=True)]
    longest = max(len(ids) for ids, _ in roomy)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for row, (some_ids, some_labels) in enumerate(roomy):
        ids[row, : len(some_ids)] = torch.tensor(some_ids)
        labels[row, : len(some_labels)] = torch.tensor(some_labels)
    return _with_targets(ids, labels)


def pack(rows: Sequence[Encoded], num_visual: Sequence[int], image_id: int, bos_first: bool) -> Batch:
    """Put conversations behind one another into a single row; arguments as for `pad`.

    Attention has to end at ``starts``: see `eyeswap.training.attention`.
    """
    roomy = [_make_room(row, count, image_id, bos_first) for row, count in zip(rows, num_visual, strict=True)]
    lengths = [len(ids) for ids, _ in roomy]
    ids = torch.tensor([[token for some_ids, _ in roomy for token in some_ids]])
    labels = torch.tensor([[label for _, some_labels in roomy for label in (IGNORED, *some_labels[1:])]])
    return replace(
        _with_targets(ids, labels),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        starts=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        longest=max(lengths),
    )


def _make_room(row: Encoded, count: int, image_id: int, bos_first: bool) -> tuple[list[int], list[int]]:
    """Return ids and labels with room for the visual tokens of the conversation."""
    ids = insert_visual(row.input_ids, count, image_id, bos_first)
    return ids, insert_visual(row.labels, count, IGNORED, bos_first)


def _with_targets(ids: Tensor, labels: Tensor) -> Batch:
    """Find in ``[B, T]`` labels what is predicted, and from where."""
    following = torch.full_like(labels, IGNORED)
    following[:, :-1] = labels[:, 1:]
    at = (following.flatten() != IGNORED).nonzero()[:, 0]
    return Batch(ids, at, following.flatten()[at])
