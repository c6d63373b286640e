"""LLMs of every kind: each learns, and answers the same alone and in batches, by either way of generating."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eyeswap.errors import SpecError
from eyeswap.evaluation.generate import Generator, Request
from eyeswap.files import read_json
from eyeswap.training.collate import encode_conversation, pad
from eyeswap.training.learner import Learner
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.decoder import has_attention_alone
from eyeswap.vlm.llm import load_llm
from eyeswap.vlm.llm_check import check_config, check_layers
from eyeswap.vlm.model import VisionLanguageModel

QUESTIONS = ("How many?", "Which digit is red?", "What is left of the blue circle?", "Is there a 3?", "Hi")
STATEFUL = {"mamba", "mamba2", "falcon_mamba", "jamba"}


def build(folder: Path) -> VisionLanguageModel:
    llm, tokenizer, prompt = load_llm(folder)
    connector = build_connector("gelu-mlp", 8, llm.config.hidden_size, seed=1)
    return VisionLanguageModel.from_parts(llm, tokenizer, connector, replace(prompt, system="")).eval()


@torch.no_grad()
def by_hand(model: VisionLanguageModel, visual: torch.Tensor, request: Request) -> str:
    """Greedy decoding of one question, the whole sequence anew for every token."""
    ids = model.tokenizer(request.prompt)["input_ids"]
    start, ends = len(ids), Generator(model)._ends
    while len(ids) - start < request.max_new_tokens:
        with_image = torch.tensor([model.insert_visual(ids, len(visual))])
        logits = model.llm(inputs_embeds=model.embed(with_image, visual), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return str(model.tokenizer.decode(ids[start:], skip_special_tokens=True)).strip()


def test_answers_are_the_same_in_any_batch(llm_of_kind: Path):
    model = build(llm_of_kind)
    assert has_attention_alone(model.llm) == (read_json(llm_of_kind / "config.json")["model_type"] not in STATEFUL)
    visual = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    asked = [[Request(model.prompt.question(one), (), 5) for one in QUESTIONS[row : row + 3]] for row in range(3)]
    expected = [[by_hand(model, visual[row], one) for one in some] for row, some in enumerate(asked)]
    assert len({text for row in expected for text in row}) > 5  # the test means nothing if all answers are alike
    for batch in (1, 3, 8):
        answers = Generator(model, batch).answer(visual, asked)
        assert [[one.text for one in row] for row in answers] == expected, batch


def test_probabilities_of_choices_are_those_of_the_whole_sequence(llm_of_kind: Path):
    model, choices = build(llm_of_kind), ("Y", "N")
    visual = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    asked = [[Request(model.prompt.question(one), choices) for one in QUESTIONS]]
    generator = Generator(model)
    for request, answer in zip(asked[0], generator.answer(visual, asked)[0], strict=True):
        ids = torch.tensor([model.insert_visual(model.tokenizer(request.prompt)["input_ids"], 5)])
        with torch.no_grad():
            logits = model.llm(inputs_embeds=model.embed(ids, visual), use_cache=False).logits[0, -1]
        expected = logits[generator.choice_ids(choices)].softmax(-1)
        assert answer.probabilities == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)


def test_an_llm_learns_to_answer(llm_of_kind: Path):
    """A few steps on one conversation; then it says what it was taught, and stops."""
    model = build(llm_of_kind).train()
    messages = ["<image>\nWhat?", "Yes"]
    encoded = encode_conversation(messages, model.prompt, model.tokenizer, 100)
    batch = pad([encoded], [5], model.config.image_token_id, model.config.bos_first, 0)
    visual = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(25):
        Learner(model)(batch, visual, uses_images=True).backward()
        optimizer.step()
        optimizer.zero_grad()
    generator = Generator(model.eval())
    answer = generator.answer(visual, [[Request(model.prompt.question("What?"), (), 12)]])[0][0]
    assert (answer.text, answer.num_tokens) == ("Yes", 3)  # bytes


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("bert", {}, "a bert is bidirectional"),
        ("rwkv", {"attention_hidden_size": 32}, "keeps its state outside a transformers cache"),
        ("modernbert-decoder", {"pad_token_id": 0}, "not those of its output layer alone"),
        ("llama", {"vision_config": {}}, None),
        ("falcon_h1", {"lm_head_multiplier": 0.5}, "its lm_head_multiplier changes logits"),
        ("recurrent_gemma", {"block_types": ["recurrent"]}, "its logits_soft_cap changes logits"),
        ("xlstm", {}, "its output_logit_soft_cap changes logits"),
        ("gemma3", {}, "a multimodal model"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(kind: str, settings: dict[str, object], told: str | None):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind) if kind == "gemma3" else AutoConfig.for_model(kind, **sizes, **settings)

    def check() -> None:
        check_config("x", config)
        check_layers("x", AutoModelForCausalLM.from_config(config).eval())

    if told is None:
        check()
        return
    with pytest.raises(SpecError, match=told) as caught:
        check()
    assert "\n" not in str(caught.value)
