"""Conversations that teach nothing: no token of an answer is left once a conversation is cut to its limit."""

from __future__ import annotations

import numpy as np

from eyeswap.errors import DataError
from eyeswap.study.study_data import LeftOut, StudyData
from eyeswap.training.collate import EncodedConversations

_NAMED = 3


def without_answer(data: StudyData, encoded: EncodedConversations, max_text_tokens: int) -> list[LeftOut]:
    """Return the records that have no answer token left; they stay in the order of batches and add nothing to a loss.

    Args:
        data: what is trained on.
        encoded: the same in tokens.
        max_text_tokens: of the recipe.

    Raises:
        DataError: if that is all of them.
    """
    reason = f"no answer token is left within max_text_tokens {max_text_tokens}"
    skipped = {one.record for one in data.left_out}
    numbers = [number for number in range(1, len(data.instructions) + len(skipped) + 1) if number not in skipped]
    found = [
        LeftOut(numbers[row], data.instructions[row].record_id, data.instructions[row].image or "", reason)
        for row in np.flatnonzero(encoded.num_targets == 0).tolist()
    ]
    if found and len(found) == len(data.instructions):
        raise DataError(
            f"{data.root}: none of {len(found):,} conversations has an answer to learn from: {reason} "
            f"({named(found)}); raise recipe.max_text_tokens, or look at the data"
        )
    return found


def named(records: list[LeftOut]) -> str:
    """Return the first three records in words."""
    first = ", ".join(f"record {one.record} (id {one.record_id!r})" for one in records[:_NAMED])
    return first + (", ..." if len(records) > _NAMED else "")
