from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.errors import SpecError
from eyeswap.vlm.prompt import VICUNA_SYSTEM, TemplatePrompt, Turn, VicunaPrompt, clean_message

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Tokenizer:
    """The part of a transformers tokenizer that a prompt needs, with transformers' own template engine."""

    name_or_path = "tiny"
    bos_token, bos_token_id = "<s>", 1

    def __init__(self, chat_template, adds_bos=True):
        self.chat_template, self.adds_bos = chat_template, adds_bos

    def __call__(self, text):
        return {"input_ids": [1] * self.adds_bos + [ord(letter) for letter in text]}

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        from transformers.utils.chat_template_utils import render_jinja_template

        assert tokenize is False
        (text,), _ = render_jinja_template(
            [messages],
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            bos_token="<s>",
        )
        return text


def test_an_inference_prompt_ends_with_the_assistant_header():
    assert VicunaPrompt().question("\nWhat?\n") == f"{VICUNA_SYSTEM} USER: What? ASSISTANT:"


def test_without_system_text_a_prompt_begins_with_user():
    prompt = VicunaPrompt(system="")
    assert prompt.question("Where is the nine?") == "USER: Where is the nine? ASSISTANT:"
    assert prompt.turns(["a", "b"])[0] == Turn("USER: a ASSISTANT: ", False)


def test_only_answers_are_marked_and_an_empty_answer_is_one_space():
    turns = VicunaPrompt(system="").turns(["<image>\na", "", "b", " c "])
    assert turns == [
        Turn("USER: a ASSISTANT: ", False),
        Turn(" </s>", True),
        Turn("USER: b ASSISTANT: ", False),
        Turn("c</s>", True),
    ]


@given(st.text())
def test_a_training_conversation_begins_with_its_inference_prompt(message):
    prompt = VicunaPrompt()
    assert prompt.turns([message, "answer"])[0].text.rstrip() == prompt.question(message)


@given(st.text(alphabet="<image> \n"))
def test_a_message_has_no_image_placeholder_at_its_ends(message):
    assert clean_message(message) == message.replace("<image>", "").strip()


def test_a_chat_template_gives_turns_that_add_up_to_the_whole_conversation():
    prompt = TemplatePrompt(Tokenizer(CHATML), system="Be brief.")
    assert prompt.question("<image>\nhi") == "<|system|>Be brief.\n<|user|>hi\n<|assistant|>"
    turns = prompt.turns(["hi", "yo", "and?", "no"])
    assert [turn.is_answer for turn in turns] == [False, True, False, True]
    assert [turn.text for turn in turns] == [
        "<|system|>Be brief.\n<|user|>hi\n<|assistant|>",
        "yo\n",
        "<|user|>and?\n<|assistant|>",
        "no\n",
    ]


def test_a_template_keeps_its_own_bos_where_the_tokenizer_adds_none():
    assert TemplatePrompt(Tokenizer(CHATML)).question("hi") == "<|user|>hi\n<|assistant|>"
    assert TemplatePrompt(Tokenizer(CHATML, adds_bos=False)).question("hi") == "<s><|user|>hi\n<|assistant|>"


def test_a_chat_template_that_rewrites_history_is_refused():
    template = (
        "{% for message in messages %}{% if loop.last or message.role == 'user' %}{{ message.content }}"
        "{% endif %}{% endfor %}"
    )
    with pytest.raises(SpecError, match="rewrites earlier turns at turn 3"):
        TemplatePrompt(Tokenizer(template)).turns(["hi", "yo", "and?"])


def test_a_tokenizer_without_chat_template_is_refused():
    with pytest.raises(SpecError, match="tiny has no chat template"):
        TemplatePrompt(Tokenizer(None)).question("hi")
