"""Token ids of texts: a beginning of sequence where the tokenizer puts one, and never an end that nobody wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eyeswap.errors import SpecError

if TYPE_CHECKING:
    from eyeswap.vlm.prompt import Prompt


def adds_bos(tokenizer: Any) -> bool:
    """Return whether a tokenizer puts a beginning-of-sequence token before any text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x")["input_ids"][:1] == [bos]


def text_ids(tokenizer: Any, texts: Sequence[str], begins: bool) -> list[list[int]]:
    """Return the token ids of texts.

    Tokenizers may be set up to write an end of sequence behind every text (``add_eos_token``). An answer's end is
    written by the prompt, and a question has none, so it is left out.

    Args:
        tokenizer: of transformers.
        texts: some texts.
        begins: whether a sequence begins with each, so that what the tokenizer puts before a sequence comes first.

    Raises:
        SpecError: if the tokenizer reads a text differently where a sequence begins.
    """
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    first = _first_ids(tokenizer) if begins else []
    return [first + some for some in ids]


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
    """Return of each conversation the token ids of its turns, and which of the turns are answers.

    As in the published code, every turn's text is stripped on the right (in the Vicuna frame) and tokenized by itself.
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
    """Return what a tokenizer puts before a sequence."""
    whole: list[int] = tokenizer("x")["input_ids"]
    plain: list[int] = tokenizer("x", add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise SpecError(f"tokenizer {tokenizer.name_or_path}: it changes a text when it adds special tokens")
