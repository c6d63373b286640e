"""How a conversation becomes text: the Vicuna v1.5 frame of the study, or another LLM's own chat template.

The frame is ``<system> USER: <message> ASSISTANT: <answer></s>USER: ...``: one space after the system text,
nothing between ``</s>`` and the next turn. The tokenizer adds the beginning-of-sequence token; visual tokens
go right behind it, so the placeholder ``<image>`` of the instruction files is removed here. With an empty
system text (the miniature LLM) a prompt begins with ``USER: ``. Parity: Prismatic VLMs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from eyeswap.errors import SpecError

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
    def system(self) -> str: ...  # noqa: D102 - see the class

    @property
    def strips_turns(self) -> bool: ...  # noqa: D102 - see the class

    def question(self, message: str) -> str:
        """Return the whole inference prompt for one user message, without beginning-of-sequence token."""
        ...

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text of each turn of a conversation; messages alternate user, assistant, user, ..."""
        ...

    def conversation(self, messages: Sequence[str]) -> str:
        """Return the text of a whole conversation; after a user message it ends with the header of the answer."""
        ...


@dataclass(frozen=True)
class VicunaPrompt:
    """The Vicuna v1.5 frame.

    Attributes:
        system: text before the first turn; empty for none.
        end_of_answer: text that closes every answer.
        strips_turns: the published trainer strips each turn on the right before it tokenizes it.
    """

    system: str = VICUNA_SYSTEM
    end_of_answer: str = "</s>"
    strips_turns: ClassVar[bool] = True

    def question(self, message: str) -> str:
        """Return the whole inference prompt for one user message; it ends with ``ASSISTANT:``.

        Example:
            >>> VicunaPrompt(system="").question("What is this?")
            'USER: What is this? ASSISTANT:'
        """
        return self._ask(message, is_first=True).rstrip()

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text of each turn; the sequence is their concatenation, right-stripped."""
        return [
            Turn(self._answer(message), True) if index % 2 else Turn(self._ask(message, index == 0), False)
            for index, message in enumerate(messages)
        ]

    def conversation(self, messages: Sequence[str]) -> str:
        """Return the text of a whole conversation; after a user message it ends with ``ASSISTANT:``."""
        return "".join(turn.text for turn in self.turns(messages)).rstrip()

    def _ask(self, message: str, is_first: bool) -> str:
        system = f"{self.system} " if is_first and self.system else ""
        return f"{system}USER: {clean_message(message)} ASSISTANT: "

    def _answer(self, message: str) -> str:
        return (clean_message(message) or " ") + self.end_of_answer


@dataclass(frozen=True)
class TemplatePrompt:
    """The chat template that an LLM's own tokenizer carries (``tokenizer.apply_chat_template``).

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
            SpecError: if the tokenizer has no chat template.
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
                    "train with one question a conversation, or use the vicuna prompt"
                )
            turns.append(Turn(after[len(before) :], is_answer=index % 2 == 1))
            before = after
        return turns

    def conversation(self, messages: Sequence[str]) -> str:
        """Render a conversation; a last user message gets the header of the answer to come.

        The template's own beginning-of-sequence token is taken off where the tokenizer adds one anyway.

        Raises:
            SpecError: if the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise SpecError(f"the tokenizer of {self._name} has no chat template; use the vicuna prompt")
        chat = [{"role": "system", "content": self.system}] if self.system else []
        for index, message in enumerate(messages):
            chat.append({"role": "assistant" if index % 2 else "user", "content": clean_message(message)})
        is_open = len(messages) % 2 == 1
        text = str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=is_open))
        return text.removeprefix(self.tokenizer.bos_token) if adds_bos(self.tokenizer) else text

    @property
    def _name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__)


def adds_bos(tokenizer: Any) -> bool:
    """Return whether a tokenizer puts a beginning-of-sequence token before any text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x")["input_ids"][:1] == [bos]


def clean_message(message: str) -> str:
    """Return a message without image placeholders and without white space at both ends."""
    return message.replace(IMAGE_PLACEHOLDER, "").strip()
