"""Does a tokenizer say in a prompt what its LLM can learn to answer? Found out on two answers, before hours are spent.

The conversations [question, "Yes"] and [question, "No"] have to begin with the prompt that is asked; the first token in
which they differ is the choice, directly behind the prompt; and something that ends generation follows. Three rules
repair what can be: the text that a template writes before every answer belongs to the prompt (`TemplatePrompt`); blank
tokens that stand before every choice are put behind the prompt when choices are weighed (`choice_ids`); and the special
token that closes an answer ends generation, whatever the LLM calls its end (`end_of_answer`). All else is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from eyeswap.errors import SpecError
from eyeswap.vlm.prompt import Prompt, TemplatePrompt
from eyeswap.vlm.text_ids import text_ids, turn_ids

_QUESTION, _YES, _NO = "Is there a dog in the image?", "Yes", "No"


def end_of_answer(tokenizer: Any, prompt: Prompt, ends: Iterable[int]) -> int:
    """Return the token that ends an answer; everything else that an answer needs is checked on the way.

    Args:
        tokenizer: the LLM's.
        prompt: its chat frame.
        ends: tokens that are known to end generation.

    Raises:
        SpecError: naming the key of the recipe that helps.
    """
    asked = text_ids(tokenizer, [prompt.question(_QUESTION)], begins=True)[0]
    said = [list(itertools.chain(*turns)) for turns, _ in turn_ids(tokenizer, prompt, _conversations((_YES, _NO)))]
    if any(ids[: len(asked)] != asked for ids in said):
        raise _problem(tokenizer, prompt, "training conversations do not begin with the prompt that is asked")
    yes, no = (ids[len(asked) :] for ids in said)
    first = len(_common(yes, no))
    if tokenizer.decode(yes[:first]).strip():
        raise _problem(tokenizer, prompt, f"{tokenizer.decode(yes[:first])!r} stands between prompt and answer")
    closing = _common(yes[first:][::-1], no[first:][::-1])[::-1]
    known = set(ends)
    end = next((place for place, token in enumerate(closing) if token in known or _is_special(tokenizer, token)), None)
    if end is None or tokenizer.decode(closing[:end]).strip():
        shown = f" but {tokenizer.decode(closing)!r}, which is ordinary text" if closing else ""
        raise _problem(tokenizer, prompt, f"no special token ends an answer: nothing follows it{shown}")
    return closing[end]


def known_ends(tokenizer: Any, *configs: Any) -> list[int]:
    """Return the tokens that are known to end generation: by the tokenizer, and by generation configs or None."""
    found = [tokenizer.eos_token_id]
    for config in configs:
        ends = getattr(config, "eos_token_id", None)
        found += ends if isinstance(ends, list) else [ends]
    return [int(end) for end in dict.fromkeys(found) if end is not None]


def check_choices(tokenizer: Any, prompt: Prompt, choices: Iterable[Sequence[str]]) -> None:
    """Check that an LLM can be asked, and that each of several sets of choices can be weighed.

    Raises:
        SpecError: see `end_of_answer` and `choice_ids`.
    """
    end_of_answer(tokenizer, prompt, known_ends(tokenizer))
    for some in choices:
        choice_ids(tokenizer, prompt, some)


def choice_ids(tokenizer: Any, prompt: Prompt, choices: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the token of each choice as an answer, and the blank tokens before all of them, which come first.

    Args:
        tokenizer: the LLM's.
        prompt: its chat frame.
        choices: the answers to choose from.

    Raises:
        SpecError: if a choice is not exactly one token of this LLM, or two are the same.
    """
    *said, yes, no = (turns[1] for turns, _ in turn_ids(tokenizer, prompt, _conversations((*choices, _YES, _NO))))
    blank = []
    for tokens in zip(*said, strict=False):
        if len(set(tokens)) > 1 or tokenizer.decode(tokens[:1]).strip():
            break
        blank.append(tokens[0])
    num_closing = len(_common(yes[::-1], no[::-1]))
    ids = [tokens[len(blank) : len(tokens) - num_closing] for tokens in said]
    for choice, pieces in zip(choices, ids, strict=True):
        if len(pieces) != 1:
            raise SpecError(f"choice {choice!r} is {len(pieces)} tokens of this LLM; it must be one")
    found = [pieces[0] for pieces in ids]
    if tokenizer.unk_token_id in found:
        raise SpecError(f"choice {choices[found.index(tokenizer.unk_token_id)]!r} is no token of this LLM")
    if len(set(found)) < len(found):
        raise SpecError(f"choices {', '.join(map(repr, choices))}: this LLM writes two of them with the same token")
    return blank, found


def _conversations(answers: Iterable[str]) -> list[list[str]]:
    return [[_QUESTION, answer] for answer in answers]


def _common(some: Sequence[int], others: Sequence[int]) -> list[int]:
    """Return what two lists begin with alike."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False))
    return [token for token, _ in pairs]


def _is_special(tokenizer: Any, token: int) -> bool:
    return token in tokenizer.added_tokens_decoder and token not in (tokenizer.unk_token_id, tokenizer.pad_token_id)


def _problem(tokenizer: Any, prompt: Prompt, what: str) -> SpecError:
    """Return the error with the key that helps."""
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    if isinstance(prompt, TemplatePrompt):
        return SpecError(f"the chat template of {name}: {what}; set recipe.prompt: vicuna")
    helps = "set recipe.prompt: template" if tokenizer.chat_template else "give it an end-of-sequence token"
    return SpecError(f"the tokenizer of {name}: {what}; {helps}")
