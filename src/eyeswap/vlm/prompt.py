"""Chat frames, which turn conversations into text: Vicuna v1.5 as in the study, a chat template, or plain lines.

The Vicuna frame is ``<system> USER: <message> ASSISTANT: <answer></s>USER: ...``: one space after the system text,
nothing between ``</s>`` and the next turn. With an empty system text (the miniature LLM) a prompt begins with
``USER: ``. The placeholder ``<image>`` of instruction files is removed, because visual tokens always enter at the same
position (`eyeswap.vlm.text_ids.insert_visual`). The text equals that of Prismatic VLMs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
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
    """The text that one turn adds to the sequence; only answers contribute to the loss."""

    text: str
    is_answer: bool


class Prompt(Protocol):
    """The chat frame of an LLM, as training and evaluation use it.

    Attributes:
        system: text of the system message; empty for none.
        strips_turns: whether training strips trailing white space of each turn before tokenizing it.
    """

    @property
    def system(self) -> str: ...

    @property
    def strips_turns(self) -> bool: ...

    def question(self, message: str) -> str:
        """Return the complete inference prompt for one user message, without beginning-of-sequence token."""
        ...

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text of each turn of a conversation; messages alternate user, assistant, user, ..."""
        ...

    def conversation(self, messages: Sequence[str]) -> str:
        """Return the text of a conversation; after a user message it ends with the header of the answer."""
        ...


class _Lines:
    """A frame with fixed text before and after each answer."""

    strips_turns: ClassVar[bool]
    end_of_answer: str

    def question(self, message: str) -> str:
        """Return the complete inference prompt for one user message."""
        return self.conversation([message])

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text of each turn; their concatenation is the conversation."""
        return [
            Turn(self._answer(message), True) if index % 2 else Turn(self._ask(message, index == 0), False)
            for index, message in enumerate(messages)
        ]

    def conversation(self, messages: Sequence[str]) -> str:
        """Return the text of a conversation; after a user message it ends where the answer begins."""
        text = "".join(turn.text for turn in self.turns(messages))
        return text.rstrip() if self.strips_turns else text

    def _ask(self, message: str, is_first: bool) -> str:
        raise NotImplementedError

    def _answer(self, message: str) -> str:
        return (clean_message(message) or " ") + self.end_of_answer


@dataclass(frozen=True)
class VicunaPrompt(_Lines):
    """The Vicuna v1.5 frame.

    Attributes:
        system: text before the first turn; empty for none.
        end_of_answer: text that closes every answer.
        strips_turns: the published trainer strips trailing white space of each turn before tokenizing it.

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


@dataclass(frozen=True)
class PlainPrompt(_Lines):
    r"""One line per message, for LLMs without chat training.

    Attributes:
        system: a line before the first turn; empty for none.
        end_of_answer: text that closes every answer.
        strips_turns: not done, because line ends are part of the frame.

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


_ANSWER = "{answer}"  # marks the position of an answer; no chat template contains it


@dataclass(frozen=True)
class TemplatePrompt:
    """The chat template of an LLM's own tokenizer (``tokenizer.apply_chat_template``).

    A prompt is everything that the template writes before an answer: its header, and whatever follows the header in
    every conversation, such as an empty think block. Spaces right before an answer belong to the answer, because
    tokenizers merge them with its first word.

    Attributes:
        tokenizer: a transformers tokenizer with a chat template.
        system: text of the system message; empty for none.
        strips_turns: not done, because white space is part of the template.
    """

    tokenizer: Any
    system: str = ""
    strips_turns: ClassVar[bool] = False

    def question(self, message: str) -> str:
        """Return the complete inference prompt for one user message.

        Raises:
            SpecError: if the tokenizer has no chat template, or the template omits messages.
        """
        return self.conversation([message])

    def turns(self, messages: Sequence[str]) -> list[Turn]:
        """Return the text that each turn adds to the rendered conversation.

        Raises:
            SpecError: if the template rewrites earlier turns, so that turns have no separate text.
        """
        turns: list[Turn] = []
        before = ""
        for index in range(len(messages)):
            after = self.conversation(messages[: index + 1])
            if not after.startswith(before):
                raise SpecError(
                    f"the chat template of {self._name} rewrites earlier turns at turn {index + 1}; "
                    "train with one question per conversation, or set recipe.prompt: vicuna"
                )
            turns.append(Turn(after[len(before) :], is_answer=index % 2 == 1))
            before = after
        return turns

    def conversation(self, messages: Sequence[str]) -> str:
        """Render a conversation; after a user message it ends where the answer begins.

        A beginning-of-sequence token written by the template is removed if the tokenizer adds one too.

        Raises:
            SpecError: if the tokenizer has no chat template, or it fails on this conversation or omits answers.
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
            text, marker, _ = text.rpartition(_ANSWER)
            if not marker:
                raise SpecError(f"the chat template of {self._name} omits answers; set recipe.prompt: vicuna")
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


_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def freeze_clock(tokenizer: Any, today: Callable[[], date]) -> None:
    """Replace the current date in a tokenizer's chat template by a fixed one, the same in training and evaluation.

    Templates ask transformers for it with ``strftime_now("%d %b %Y")``. The fixed date is saved with the tokenizer, and
    so with every model that is trained with it.

    Args:
        tokenizer: its template is changed.
        today: returns the date; not called if no template asks for it.

    Raises:
        SpecError: if a template reads the clock in a way that cannot be replaced.
    """
    templates = tokenizer.chat_template
    if "strftime_now(" not in str(templates):
        return
    day = today()

    def frozen(template: str) -> str:
        return _CLOCK.sub(lambda call: f"{call[1]}{day.strftime(call[2])}{call[1]}", template)

    if isinstance(templates, dict):
        tokenizer.chat_template = {name: frozen(template) for name, template in templates.items()}
    else:
        tokenizer.chat_template = frozen(templates)
    if "strftime_now(" in str(tokenizer.chat_template):
        raise SpecError(
            f"the chat template of {tokenizer.name_or_path} prints the time in a form that cannot be fixed; "
            "set recipe.prompt: vicuna"
        )


def clean_message(message: str) -> str:
    """Return a message without image placeholders and surrounding white space."""
    return message.replace(IMAGE_PLACEHOLDER, "").strip()
