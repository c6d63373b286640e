"""How a conversation becomes text: the Vicuna v1.5 frame of the study, an LLM's own chat template, or plain lines.

The frame is ``<system> USER: <message> ASSISTANT: <answer></s>USER: ...``: one space after the system text,
nothing between ``</s>`` and the next turn. The tokenizer adds the beginning-of-sequence token; visual tokens
go right behind it, so the placeholder ``<image>`` of the instruction files is removed here. With an empty
system text (the miniature LLM) a prompt begins with ``USER: ``. Parity: Prismatic VLMs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from jinja2 import TemplateError

from eyeswap.errors import SpecError
from eyeswap.vlm.text_ids import adds_bos

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_PLACEHOLDER = "<image>"


class Turn(NamedTuple):
    """The text one turn adds to the sequence; only answers carry a loss."""

    text: str
    is_answer: bool


class Prompt(Protocol):
    """What the trainer and the evaluator ask of a chat format.

    Attributes:
        system: text of the system message; empty for none.
        strips_turns: whether the trainer strips each turn on the right before it tokenizes it.
    """

    @property
    def system(self) -> str: ...

    @property
    def strips_turns(self) -> bool: ...

    def question(self, message: str) -> str:
        """Return the whole inference prompt for one user message, without beginning-of-sequence token."""
        ...

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text of each turn of a conversation; messages alternate user, assistant, user, ..."""
        ...

    def conversation(self, messages: Sequence[str]) -> str:
        """Return the text of a whole conversation; after a user message it ends with the header of the answer."""
        ...


class _Lines:
    """A frame of fixed words: a text before each answer, and one behind it."""

    strips_turns: ClassVar[bool]

    def question(self, message: str) -> str:
        """Return the whole inference prompt for one user message."""
        return self.conversation([message])

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text of each turn; the sequence is their concatenation."""
        return [
            Turn(self._answer(message), True) if index % 2 else Turn(self._ask(message, index == 0), False)
            for index, message in enumerate(messages)
        ]

    def conversation(self, messages: Sequence[str]) -> str:
        """Return the text of a whole conversation; after a user message it ends where the answer begins."""
        text = "".join(turn.text for turn in self.turns(messages))
        return text.rstrip() if self.strips_turns else text

    def _ask(self, message: str, is_first: bool) -> str:
        raise NotImplementedError

    def _answer(self, message: str) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class VicunaPrompt(_Lines):
    """The Vicuna v1.5 frame.

    Attributes:
        system: text before the first turn; empty for none.
        end_of_answer: text that closes every answer.
        strips_turns: the published trainer strips each turn on the right before it tokenizes it.

    Example:
        >>> VicunaPrompt(system="").question("What is this?")
        'USER: What is this? ASSISTANT:'
    """

    system: str = VICUNA_SYSTEM
    end_of_answer: str = "</s>"
    strips_turns: ClassVar[bool] = True

    def _ask(self, message: str, is_first: bool) -> str:
        system = f"{self.system} " if is_first and self.system else ""
        return f"{system}USER: {clean_message(message)} ASSISTANT: "

    def _answer(self, message: str) -> str:
        return (clean_message(message) or " ") + self.end_of_answer


@dataclass(frozen=True)
class PlainPrompt(_Lines):
    r"""A line for each message, for LLMs that were never taught a chat.

    Attributes:
        system: a line before the first turn; empty for none.
        end_of_answer: text that closes every answer.
        strips_turns: the end of a line is meant.

    Example:
        >>> PlainPrompt().conversation(["What is this?", "A dog"])
        'What is this?\nA dog</s>'
    """

    system: str = ""
    end_of_answer: str = "</s>"
    strips_turns: ClassVar[bool] = False

    def _ask(self, message: str, is_first: bool) -> str:
        system = f"{self.system}\n" if is_first and self.system else ""
        return f"{system}{clean_message(message)}\n"

    def _answer(self, message: str) -> str:
        return (clean_message(message) or " ") + self.end_of_answer


_ANSWER = "{answer}"  # stands where an answer will; no chat template knows it


@dataclass(frozen=True)
class TemplatePrompt:
    """The chat template that an LLM's own tokenizer carries (``tokenizer.apply_chat_template``).

    A prompt is all that the template writes before an answer: its header, and whatever stands between header and
    answer in every conversation, such as an empty think block. Spaces right before an answer belong to the answer,
    because tokenizers join them with its first word.

    Attributes:
        tokenizer: a transformers tokenizer with a chat template.
        system: text of a system message; empty for none.
        strips_turns: a template means every character it writes.
    """

    tokenizer: Any
    system: str = ""
    strips_turns: ClassVar[bool] = False

    def question(self, message: str) -> str:
        """Return the whole inference prompt for one user message.

        Raises:
            SpecError: if the tokenizer has no chat template, or it leaves messages out.
        """
        return self.conversation([message])

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text each turn adds to the rendered conversation.

        Raises:
            SpecError: if the template rewrites earlier turns, so that no turn has a text of its own.
        """
        turns: list[Turn] = []
        before = ""
        for index in range(len(messages)):
            after = self.conversation(messages[: index + 1])
            if not after.startswith(before):
                raise SpecError(
                    f"the chat template of {self._name} rewrites earlier turns at turn {index + 1}; "
                    "train with one question a conversation, or set recipe.prompt: vicuna"
                )
            turns.append(Turn(after[len(before) :], is_answer=index % 2 == 1))
            before = after
        return turns

    def conversation(self, messages: Sequence[str]) -> str:
        """Render a conversation; after a user message it ends where the answer begins.

        The template's own beginning-of-sequence token is taken off where the tokenizer adds one anyway.

        Raises:
            SpecError: if the tokenizer has no chat template, or it fails on this conversation or leaves answers out.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise SpecError(f"the tokenizer of {self._name} has no chat template; set recipe.prompt: vicuna")
        is_open = len(messages) % 2 == 1
        chat = [{"role": "system", "content": self.system}] if self.system else []
        for index, message in enumerate(messages):
            chat.append({"role": "assistant" if index % 2 else "user", "content": clean_message(message)})
        if is_open:
            chat.append({"role": "assistant", "content": _ANSWER})
        text = self._rendered(chat)
        if is_open:
            text, found, _ = text.rpartition(_ANSWER)
            if not found:
                raise SpecError(f"the chat template of {self._name} leaves answers out; set recipe.prompt: vicuna")
            text = text.rstrip(" ")
        return text.removeprefix(self.tokenizer.bos_token) if adds_bos(self.tokenizer) else text

    def _rendered(self, chat: list[dict[str, str]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False))
        except TemplateError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SpecError(f"the chat template of {self._name} fails ({reason}); set recipe.prompt: vicuna") from None

    @property
    def _name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__)


def clean_message(message: str) -> str:
    """Return a message without image placeholders and without white space at both ends."""
    return message.replace(IMAGE_PLACEHOLDER, "").strip()
