"""Tokenize conversations, and collate several of them into a batch of padded rows or of one packed row.

In a batch, the id of ``<image>`` marks the place of each visual token: after the beginning-of-sequence token, or at the
very beginning if the LLM has none.
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

_AT_ONCE = 1024  # conversations per call of the tokenizer


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids and labels of equal length; labels are `IGNORED` outside of answers."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def encode_conversation(
    messages: Sequence[str], prompt: Prompt, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Encoded:
    """Tokenize a conversation turn by turn, as the published code does.

    Each turn's text is stripped on the right (in the Vicuna frame) and tokenized separately; only the first turn has
    the beginning-of-sequence token. The turns are concatenated and truncated to ``max_tokens``.

    Args:
        messages: human, assistant, human, ...
        prompt: the chat frame.
        tokenizer: the LLM's tokenizer.
        max_tokens: truncate to this many tokens.
    """
    return EncodedConversations.of([messages], prompt, tokenizer, max_tokens)[0]


class EncodedConversations:
    """Many tokenized conversations in three flat arrays, 5 bytes per token.

    Attributes:
        ids: ``[tokens]`` token ids of all conversations, concatenated.
        is_target: ``[tokens]`` whether a token belongs to an answer.
        starts: ``[conversations + 1]`` offset of each conversation.
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
        """Tokenize conversations like `encode_conversation`; ``advance`` is called with the number newly done."""
        ids: list[npt.NDArray[np.int32]] = []
        targets: list[npt.NDArray[np.bool_]] = []
        for start in range(0, len(conversations), _AT_ONCE):
            chunk = conversations[start : start + _AT_ONCE]
            for pieces, answers in turn_ids(tokenizer, prompt, chunk):
                row = np.array([token for piece in pieces for token in piece][:max_tokens], dtype=np.int32)
                ids.append(row)
                targets.append(np.repeat(answers, [len(piece) for piece in pieces])[: len(row)])
            advance(len(chunk))
        starts = np.array([0, *accumulate(map(len, ids))], dtype=np.int64)
        empty = np.empty(0, dtype=np.int32)  # so that a process without conversations has arrays too
        return cls(np.concatenate([*ids, empty]), np.concatenate([*targets, empty.astype(np.bool_)]), starts)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the conversations of several parts, one after the other."""
        ends = accumulate((len(part.ids) for part in parts), initial=0)
        starts = [part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)]
        total = np.array([sum(len(part.ids) for part in parts)], dtype=np.int64)
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.is_target for part in parts]),
            np.concatenate([*starts, total]),
        )

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``[conversations]`` number of text tokens."""
        return np.diff(self.starts)

    @cached_property
    def num_targets(self) -> npt.NDArray[np.int64]:
        """``[conversations]`` number of predicted tokens: answer tokens, except one at the very beginning."""
        counts = np.concatenate([[0], np.cumsum(self.is_target)])
        return np.diff(counts[self.starts]) - self.is_target[self.starts[:-1]]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Encoded:
        """Return one conversation by its row."""
        part = slice(self.starts[row], self.starts[row + 1])
        ids = self.ids[part]
        labels = np.where(self.is_target[part], ids, IGNORED)
        return Encoded(tuple(ids.tolist()), tuple(labels.tolist()))


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass over several conversations.

    Attributes:
        input_ids: ``[B, T]``, with the image id in place of visual tokens.
        target_at: ``[K]`` positions in ``[B * T]`` whose next token is predicted.
        targets: ``[K]`` those next tokens.
        position_ids: ``[1, T]`` positions within each conversation, if packed.
        starts: ``[conversations + 1]`` int32 offset of each conversation in the packed row.
        longest: tokens of the longest conversation, if packed.
        visual: visual tokens, or the pixels they are made of (see `eyeswap.training.vision`); None without images.
    """

    input_ids: Tensor
    target_at: Tensor
    targets: Tensor
    position_ids: Tensor | None = None
    starts: Tensor | None = None
    longest: int = 0
    visual: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device, every tensor with its shape."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, which copies faster to a GPU, every tensor with its shape."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**{**vars(self), **changed})


def pad(rows: Sequence[Encoded], num_visual: Sequence[int], image_id: int, bos_first: bool, pad_id: int) -> Batch:
    """Stack conversations as rows, padded on the right, which a causal model needs no mask for.

    Args:
        rows: the conversations.
        num_visual: visual tokens of each; 0 without an image.
        image_id: token id that stands for a visual token.
        bos_first: whether conversations begin with a beginning-of-sequence token.
        pad_id: token id that fills the shorter rows.
    """
    full_rows = [_insert_image(row, count, image_id, bos_first) for row, count in zip(rows, num_visual, strict=True)]
    longest = max(len(ids) for ids, _ in full_rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for row, (row_ids, row_labels) in enumerate(full_rows):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        labels[row, : len(row_labels)] = torch.tensor(row_labels)
    return _with_targets(ids, labels)


def pack(rows: Sequence[Encoded], num_visual: Sequence[int], image_id: int, bos_first: bool) -> Batch:
    """Concatenate conversations into a single row; arguments as for `pad`.

    Attention must not cross the borders in ``starts``: see `eyeswap.training.attention`.
    """
    full_rows = [_insert_image(row, count, image_id, bos_first) for row, count in zip(rows, num_visual, strict=True)]
    lengths = [len(ids) for ids, _ in full_rows]
    ids = torch.tensor([[token for row_ids, _ in full_rows for token in row_ids]])
    # The first token of a conversation must not be predicted from the last one of its neighbour.
    labels = torch.tensor([[label for _, row_labels in full_rows for label in (IGNORED, *row_labels[1:])]])
    return replace(
        _with_targets(ids, labels),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        starts=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        longest=max(lengths),
    )


def _insert_image(row: Encoded, count: int, image_id: int, bos_first: bool) -> tuple[list[int], list[int]]:
    """Return ids and labels with ``count`` image ids inserted for the visual tokens."""
    ids = insert_visual(row.input_ids, count, image_id, bos_first)
    return ids, insert_visual(row.labels, count, IGNORED, bos_first)


def _with_targets(ids: Tensor, labels: Tensor) -> Batch:
    """Return a batch with the predicted tokens of ``[B, T]`` labels and the positions that predict them."""
    next_labels = torch.full_like(labels, IGNORED)
    next_labels[:, :-1] = labels[:, 1:]
    target_at = (next_labels.flatten() != IGNORED).nonzero()[:, 0]
    return Batch(ids, target_at, next_labels.flatten()[target_at])
