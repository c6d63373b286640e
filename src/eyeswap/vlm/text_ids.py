"""Token ids of texts and images: BOS where the tokenizer adds one, EOS only where the text has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eyeswap.errors import SpecError

if TYPE_CHECKING:
    from eyeswap.vlm.prompt import Prompt


def adds_bos(tokenizer: Any) -> bool:
    """Return whether a tokenizer adds a beginning-of-sequence token to every text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x")["input_ids"][:1] == [bos]


def text_ids(tokenizer: Any, texts: Sequence[str], begins: bool) -> list[list[int]]:
    """Return the token ids of texts.

    Some tokenizers append an end of sequence to every text (``add_eos_token``). It is left out: the chat frame writes
    the end of an answer, and a question has none.

    Args:
        tokenizer: of transformers.
        texts: the texts.
        begins: whether each text begins a sequence, and so gets the tokens that the tokenizer adds there.

    Raises:
        SpecError: if the tokenizer splits a text differently at the beginning of a sequence.
    """
    if not texts:
        return []
    ids_of_texts: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    first = _first_ids(tokenizer) if begins else []
    return [first + ids for ids in ids_of_texts]


def insert_visual(tokens: Sequence[int], num_visual: int, filler: int, bos_first: bool) -> list[int]:
    """Return a token sequence with ``filler`` at each position that a visual token takes.

    This is the only place that decides where an image enters a text: right behind the beginning-of-sequence token, or
    at the very front of a sequence without one. Training, generation and the processor all call it, and
    `eyeswap.vlm.model.VisionLanguageModel.embed` puts the visual tokens where the filler stands.

    Args:
        tokens: ids of a text that has no ``<image>`` any more, or labels of the same length.
        num_visual: visual tokens of the image; 0 without one.
        filler: the id of ``<image>``, or the label of a position without loss.
        bos_first: whether the sequence begins with a beginning-of-sequence token.
    """
    lead = int(bos_first)
    return [*tokens[:lead], *[filler] * num_visual, *tokens[lead:]]


def turn_ids(
    tokenizer: Any, prompt: Prompt, conversations: Sequence[Sequence[str]]
) -> list[tuple[list[list[int]], list[bool]]]:
    """Return for each conversation the token ids of its turns, and which of them are answers.

    As in the published code, each turn is tokenized by itself, in the Vicuna frame without trailing white space.
    """
    turns = [prompt.turns(messages) for messages in conversations]
    texts = [[turn.text.rstrip() if prompt.strips_turns else turn.text for turn in each] for each in turns]
    firsts = text_ids(tokenizer, [each[0] for each in texts], begins=True)
    others = iter(text_ids(tokenizer, [text for each in texts for text in each[1:]], begins=False))
    return [
        ([first, *(next(others) for _ in each[1:])], [turn.is_answer for turn in each])
        for first, each in zip(firsts, turns, strict=True)
    ]


def _first_ids(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer adds at the beginning of a sequence."""
    sequence: list[int] = tokenizer("x")["input_ids"]
    text: list[int] = tokenizer("x", add_special_tokens=False)["input_ids"]
    for start in range(len(sequence) - len(text) + 1):
        if sequence[start : start + len(text)] == text:
            return sequence[:start]
    raise SpecError(f"tokenizer {tokenizer.name_or_path}: splits a text differently when it adds special tokens")
