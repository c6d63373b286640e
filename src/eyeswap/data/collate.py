"""Turn conversations into token ids and labels, and batches of them into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from eyeswap.vlm.model import IGNORED
from eyeswap.vlm.prompt import Prompt


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
    ids: list[int] = []
    labels: list[int] = []
    for index, turn in enumerate(prompt.turns(messages)):
        text = turn.text.rstrip() if prompt.strips_turns else turn.text
        piece = tokenizer(text, add_special_tokens=index == 0)["input_ids"]
        ids += piece
        labels += piece if turn.is_answer else [IGNORED] * len(piece)
    return Encoded(tuple(ids[:max_tokens]), tuple(labels[:max_tokens]))


def collate(rows: Sequence[Encoded], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Stack conversations into ``input_ids`` and ``labels``, both ``[B, T]``, padded on the right."""
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for position, row in enumerate(rows):
        ids[position, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[position, : len(row.labels)] = torch.tensor(row.labels)
    return ids, labels
