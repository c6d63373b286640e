"""What a prompt promises: it begins training conversations, answers stand right behind it, and something ends them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llms import CHATML, LLAMA, WORDS, byte_tokenizer, llama, qwen

from eyeswap.errors import SpecError
from eyeswap.evaluation.generate import Generator, Request
from eyeswap.training.collate import encode_conversation, pad
from eyeswap.training.learner import Learner
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.llm import add_tokens, choose_prompt, load_llm, load_tokenizer, make_room
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.processor import VisionLanguageProcessor
from eyeswap.vlm.prompt import PlainPrompt, TemplatePrompt, VicunaPrompt
from eyeswap.vlm.prompt_check import check_choices, choice_ids, end_of_answer, known_ends
from eyeswap.vlm.text_ids import text_ids

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADER = "<|im_start|>assistant\n"
# Qwen 3: the last answer alone has a think block, its header has none.
THINKS = CHATML.replace(
    "{{ message.content }}",
    "{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}",
)
# DeepSeek R1: the header opens a block that no finished conversation has.
OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def tokenizer_of(template: str | None = CHATML, **roles: Any) -> Any:
    """A base LLM's: its end of sequence is another token than its template's end of turn."""
    settings = {"merges": WORDS, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} | roles
    tokenizer = byte_tokenizer(SPECIAL, **settings)
    tokenizer.chat_template = template
    add_tokens(tokenizer)
    return tokenizer


def ids_of(tokenizer: Any, *tokens: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(tokens))


def stop_of(tokenizer: Any, prompt: Any) -> int:
    return end_of_answer(tokenizer, prompt, known_ends(tokenizer))


@pytest.mark.parametrize("template", [CHATML, THINKS, OPENS, LLAMA, None], ids=range(5))
@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("kind", ["auto", "plain", "vicuna"])
def test_the_first_token_behind_the_prompt_is_the_choice(template: str | None, adds_eos: bool, kind: str):
    tokenizer = tokenizer_of(template, adds_eos=adds_eos, bos_token="<|im_start|>")
    prompt = choose_prompt(tokenizer, prompt=kind)
    asked = text_ids(tokenizer, [prompt.question("Is there?")], begins=True)[0]
    blank, choices = choice_ids(tokenizer, prompt, ("Yes", "No"))
    assert blank == []
    for answer, choice in zip(("Yes", "No"), choices, strict=True):
        trained = encode_conversation(["Is there?", answer], prompt, tokenizer, 1000)
        assert list(trained.input_ids[: len(asked) + 1]) == [*asked, choice]
        assert trained.labels[len(asked) - 1 : len(asked) + 1] == (-100, choice)
        assert trained.labels[len(asked) + 1] == stop_of(tokenizer, prompt)
    assert tokenizer.eos_token_id not in asked


def test_a_think_block_that_every_answer_has_belongs_to_the_prompt():
    assert TemplatePrompt(tokenizer_of(THINKS)).question("Hi").endswith(HEADER + "<think>\n\n</think>\n\n")
    assert TemplatePrompt(tokenizer_of(OPENS)).question("Hi").endswith(HEADER)
    turns = TemplatePrompt(tokenizer_of(THINKS)).turns(["Hi", "Yes"])
    assert turns[1].text == "Yes<|im_end|>\n"


def test_a_blank_that_joins_the_answer_belongs_to_the_choice():
    tokenizer = tokenizer_of(LLAMA)
    prompt = TemplatePrompt(tokenizer)
    assert prompt.question("Hi").endswith("[/INST]")
    assert choice_ids(tokenizer, prompt, ("Yes", "No")) == ([], ids_of(tokenizer, "ĠYes", "ĠNo"))
    tokenizer.chat_template = CHATML
    assert choice_ids(tokenizer, prompt, ("Yes", "No")) == ([], ids_of(tokenizer, "Yes", "No"))


def test_a_blank_of_its_own_comes_before_the_choice():
    tokenizer = tokenizer_of(LLAMA, merges=[])
    assert choice_ids(tokenizer, TemplatePrompt(tokenizer), ("A", "B")) == (
        ids_of(tokenizer, "Ġ"), ids_of(tokenizer, "A", "B"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (("Yes", "a purple square"), "choice 'a purple square' is 15 tokens"),
        (("Yes", "Yes"), "two of them with the same token"),
    ],
)
def test_choices_that_cannot_be_told_apart_by_a_token_are_refused(choices: tuple[str, ...], told: str):
    tokenizer = tokenizer_of()
    with pytest.raises(SpecError, match=told):
        check_choices(tokenizer, TemplatePrompt(tokenizer), [("Yes", "No"), choices])


def test_the_end_of_a_turn_ends_an_answer_whatever_the_llm_calls_its_end():
    tokenizer = tokenizer_of()
    assert [stop_of(tokenizer, TemplatePrompt(tokenizer))] == ids_of(tokenizer, "<|im_end|>")
    assert stop_of(tokenizer, choose_prompt(tokenizer, prompt="vicuna")) == tokenizer.eos_token_id


NOTHING = CHATML.replace("<|im_end|>\n", "")
ORDINARY = CHATML.replace("<|im_end|>", "### ")


@pytest.mark.parametrize(
    ("template", "prompt", "told"),
    [
        (NOTHING, "auto", r"no special token ends an answer: nothing follows it; set recipe.prompt: vicuna"),
        (ORDINARY, "auto", r"but '### \\n', which is ordinary text; set recipe.prompt: vicuna"),
        ("{{ messages[0].content }}", "auto", "omits answers; set recipe.prompt: vicuna"),
        ("{{ raise_exception('no images') }}", "auto", r"fails \(no images\); set recipe.prompt: vicuna"),
        (None, "template", "has no chat template; set recipe.prompt: vicuna"),
        (CHATML, "vicuna", "which is ordinary text; set recipe.prompt: template"),
        (None, "auto", "which is ordinary text; give it an end-of-sequence token"),
    ],
)
def test_what_cannot_be_repaired_is_one_line_with_the_key_that_helps(template: str | None, prompt: str, told: str):
    ends = {} if told.startswith(("no", "but", "omits", "fails", "has")) else {"eos_token": None, "pad_token": None}
    tokenizer = tokenizer_of(template, **{"merges": WORDS, **ends})
    with pytest.raises(SpecError, match=told) as caught:
        stop_of(tokenizer, choose_prompt(tokenizer, prompt=prompt))
    assert "\n" not in str(caught.value)


def test_an_end_that_tokenizers_add_stands_behind_no_question():
    tokenizer = tokenizer_of(None, adds_bos=True, adds_eos=True, bos_token="<|im_start|>")
    prompt = VicunaPrompt(system="", end_of_answer="<|endoftext|>")
    asked = text_ids(tokenizer, [prompt.question("Hi")], begins=True)[0]
    assert tokenizer(prompt.question("Hi"))["input_ids"] == [*asked, tokenizer.eos_token_id]
    assert asked[0] == tokenizer.bos_token_id
    encoded = encode_conversation(["Hi", "Yes", "And?", "No"], prompt, tokenizer, 100)
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 2  # one behind each answer
    processor = VisionLanguageProcessor.of(tokenizer, prompt)
    assert processor(text=prompt.question("Hi"))["input_ids"][0].tolist() == asked


def dated(folder: Path, format_: str = '"%d %b %Y"') -> Path:
    """A tiny LLM whose template prints the date as Llama 3's does."""
    model, tokenizer = qwen()
    now = f"{{%- if strftime_now is defined %}}{{%- set day = strftime_now({format_}) %}}{{%- endif %}}"
    tokenizer.chat_template = f"{now}<|im_start|>system\nToday: {{{{ day }}}}<|im_end|>\n" + CHATML
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_date_in_a_template_is_that_of_the_run_for_ever(tmp_path: Path):
    tokenizer, prompt = load_tokenizer(dated(tmp_path / "llm"), today=lambda: date(2024, 7, 26))
    expected = "<|im_start|>system\nToday: 26 Jul 2024<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n" + HEADER
    assert prompt.question("Hi") == expected
    VisionLanguageProcessor.of(tokenizer, prompt).save_pretrained(tmp_path / "model")
    assert VisionLanguageProcessor.from_pretrained(tmp_path / "model").prompt.question("Hi") == expected
    assert date.today().strftime("%d %b %Y") in load_tokenizer(tmp_path / "llm")[1].question("Hi")


def test_a_date_that_cannot_be_kept_is_refused(tmp_path: Path):
    with pytest.raises(SpecError, match=r"prints the time in a form that cannot be fixed; set recipe.prompt: vicuna"):
        load_tokenizer(dated(tmp_path, "wanted"))


def test_frames_by_name(tmp_path: Path):
    model, tokenizer = qwen()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert isinstance(load_tokenizer(tmp_path)[1], TemplatePrompt)
    assert load_tokenizer(tmp_path, "vicuna")[1] == VicunaPrompt(end_of_answer="<|im_end|>")
    assert load_tokenizer(tmp_path, "plain")[1] == PlainPrompt(end_of_answer="<|im_end|>")
    for kind in ("vicuna", "plain", "template"):
        tokenizer, prompt = load_tokenizer(tmp_path, kind)
        VisionLanguageProcessor.of(tokenizer, prompt).save_pretrained(tmp_path / kind)
        again = VisionLanguageProcessor.from_pretrained(tmp_path / kind).prompt
        assert again.conversation(["a", "b", "c"]) == prompt.conversation(["a", "b", "c"])


@pytest.mark.parametrize("kind", ["base", "blank"])
def test_a_base_llm_learns_where_its_answer_ends(tmp_path: Path, kind: str):
    """Trained until it knows its answer, an LLM says it once, and is sure of it, by either way of generating."""
    torch.manual_seed(0)
    model, _ = qwen() if kind == "base" else llama()
    tokenizer = tokenizer_of(CHATML if kind == "base" else LLAMA, merges=WORDS if kind == "base" else [])
    make_room(model, tokenizer)
    vlm = VisionLanguageModel.from_parts(
        model, tokenizer, build_connector("gelu-mlp", 8, 32, seed=1), TemplatePrompt(tokenizer)
    ).train()
    answer, choices = ("Yes", ("Yes", "No")) if kind == "base" else ("A", ("A", "B"))
    encoded = encode_conversation(["Is there?", answer], vlm.prompt, tokenizer, 1000)
    batch = pad([encoded], [2], vlm.config.image_token_id, vlm.config.bos_first, 0)
    visual = torch.randn(1, 2, 8)
    optimizer = torch.optim.Adam(vlm.parameters(), lr=1e-2)
    loss, steps = torch.tensor(1.0), 0
    while float(loss.detach()) > 0.02:  # of three tokens together
        steps += 1
        assert steps < 200
        optimizer.zero_grad()
        loss = Learner(vlm)(batch, visual, uses_images=True)
        loss.backward()
        optimizer.step()
    vlm.eval().save(tmp_path)
    vlm = VisionLanguageModel.load(tmp_path)
    question = vlm.prompt.question("Is there?")
    free, chosen = Generator(vlm).answer(visual, [[Request(question, (), 9), Request(question, choices)]])[0]
    assert free.text == chosen.text == answer
    assert chosen.probabilities is not None
    assert chosen.probabilities[0] > 0.9
    inputs = vlm.processor(text=question)
    told = vlm.generate(**inputs, max_new_tokens=9)[0, inputs["input_ids"].shape[1] :]
    assert len(told) < 9
    assert tokenizer.decode(told, skip_special_tokens=True).strip()  # without its image it may say anything


def test_loading_an_llm_tries_its_prompt(tmp_path: Path):
    model, tokenizer = qwen()
    tokenizer.chat_template = NOTHING
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="no special token ends an answer"):
        load_llm(tmp_path)
    assert load_llm(tmp_path, prompt="vicuna")[2] == VicunaPrompt(end_of_answer="<|im_end|>")
