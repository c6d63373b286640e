"""Check on two answers, before hours are spent, that training conversations and inference prompts agree in tokens.

The conversations [question, "Yes"] and [question, "No"] must begin with the inference prompt; the first token in which
they differ is the choice, right after the prompt; and a token that ends generation must follow. Three differences are
handled: text that a template writes before every answer belongs to the prompt (`TemplatePrompt`); blank tokens before
every choice are appended to the prompt when choices are compared (`choice_ids`); and the special token that closes an
answer ends generation, whatever the LLM declares as its end (`end_of_answer`). Everything else is refused.
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
    """Return the token that ends an answer, after checking that prompt and answer fit together.

    Args:
        tokenizer: the LLM's.
        prompt: its chat frame.
        ends: tokens that are known to end generation.

    Raises:
        SpecError: naming the key of the recipe to change.
    """
    question = text_ids(tokenizer, [prompt.question(_QUESTION)], begins=True)[0]
    chats = [list(itertools.chain(*turns)) for turns, _ in turn_ids(tokenizer, prompt, _conversations((_YES, _NO)))]
    if any(ids[: len(question)] != question for ids in chats):
        raise _problem(tokenizer, prompt, "training conversations do not begin with the inference prompt")
    yes, no = (ids[len(question) :] for ids in chats)
    first = len(_common(yes, no))
    if tokenizer.decode(yes[:first]).strip():
        raise _problem(tokenizer, prompt, f"{tokenizer.decode(yes[:first])!r} is between prompt and answer")
    closing = _common(yes[first:][::-1], no[first:][::-1])[::-1]
    known = set(ends)
    end = next((place for place, token in enumerate(closing) if token in known or _is_special(tokenizer, token)), None)
    if end is None or tokenizer.decode(closing[:end]).strip():
        text = f" but {tokenizer.decode(closing)!r}, which is ordinary text" if closing else ""
        raise _problem(tokenizer, prompt, f"no special token ends an answer: nothing follows it{text}")
    return closing[end]


def known_ends(tokenizer: Any, *configs: Any) -> list[int]:
    """Return the tokens that end generation according to the tokenizer and to generation configs (or None)."""
    ends = [tokenizer.eos_token_id]
    for config in configs:
        of_config = getattr(config, "eos_token_id", None)
        ends += of_config if isinstance(of_config, list) else [of_config]
    return [int(end) for end in dict.fromkeys(ends) if end is not None]


def check_choices(tokenizer: Any, prompt: Prompt, choices: Iterable[Sequence[str]]) -> None:
    """Check that an LLM can be prompted, and that each of several sets of choices can be compared.

    Raises:
        SpecError: see `end_of_answer` and `choice_ids`.
    """
    end_of_answer(tokenizer, prompt, known_ends(tokenizer))
    for options in choices:
        choice_ids(tokenizer, prompt, options)


def choice_ids(tokenizer: Any, prompt: Prompt, choices: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the blank tokens before every choice, and the token of each choice as an answer.

    Args:
        tokenizer: the LLM's.
        prompt: its chat frame.
        choices: the answers to choose from.

    Raises:
        SpecError: if a choice is not exactly one token of this LLM, or two choices are the same token.
    """
    *answers, yes, no = (turns[1] for turns, _ in turn_ids(tokenizer, prompt, _conversations((*choices, _YES, _NO))))
    blank = []
    for tokens in zip(*answers, strict=False):
        if len(set(tokens)) > 1 or tokenizer.decode(tokens[:1]).strip():
            break
        blank.append(tokens[0])
    num_closing = len(_common(yes[::-1], no[::-1]))
    ids = [tokens[len(blank) : len(tokens) - num_closing] for tokens in answers]
    for choice, pieces in zip(choices, ids, strict=True):
        if len(pieces) != 1:
            raise SpecError(f"choice {choice!r} is {len(pieces)} tokens of this LLM; it must be one")
    tokens_of_choices = [pieces[0] for pieces in ids]
    if tokenizer.unk_token_id in tokens_of_choices:
        raise SpecError(f"choice {choices[tokens_of_choices.index(tokenizer.unk_token_id)]!r} is no token of this LLM")
    if len(set(tokens_of_choices)) < len(choices):
        raise SpecError(f"choices {', '.join(map(repr, choices))}: this LLM writes two of them with the same token")
    return blank, tokens_of_choices


def _conversations(answers: Iterable[str]) -> list[list[str]]:
    return [[_QUESTION, answer] for answer in answers]


def _common(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return the longest common prefix of two lists."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return [token for token, _ in pairs]


def _is_special(tokenizer: Any, token: int) -> bool:
    return token in tokenizer.added_tokens_decoder and token not in (tokenizer.unk_token_id, tokenizer.pad_token_id)


def _problem(tokenizer: Any, prompt: Prompt, problem: str) -> SpecError:
    """Return the error, with advice on what to change."""
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    if isinstance(prompt, TemplatePrompt):
        return SpecError(f"the chat template of {name}: {problem}; set recipe.prompt: vicuna")
    advice = "set recipe.prompt: template" if tokenizer.chat_template else "give it an end-of-sequence token"
    return SpecError(f"the tokenizer of {name}: {problem}; {advice}")
