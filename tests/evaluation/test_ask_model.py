"""A VLM is asked about one image: counts are counts, choices have probabilities, boxes are in pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import eyeswap
from eyeswap.backbones.weights import load_backbone
from eyeswap.evaluation.ask import with_box
from eyeswap.evaluation.counting import LETTERS, spelled_out
from eyeswap.evaluation.generate import Generation, Generator
from eyeswap.evaluation.grounding import box_request
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.llm import load_llm
from eyeswap.vlm.model import VisionLanguageModel

IMAGE = Image.new("RGB", (200, 100), (200, 10, 10))


@pytest.fixture(scope="module")
def vlm(tiny_llm: Path) -> VisionLanguageModel:
    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, 32, seed=1)
    return VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).eval()


def answers(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    """Let the LLM answer a text; return the prompts that it gets."""
    prompts: list[str] = []

    def answer(self: Generator, tokens: torch.Tensor, questions: list[list]) -> list[list[Generation]]:
        prompts.append(questions[0][0].prompt)
        return [[Generation(text, None, 3, 0.1)]]

    monkeypatch.setattr(Generator, "answer", answer)
    return prompts


def test_a_letter_is_a_count_only_where_a_count_was_asked(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "D")
    assert eyeswap.ask(vlm, IMAGE, "How many digits are there?").text == "3"
    assert eyeswap.ask(vlm, IMAGE, "Which letter is it?").text == "D"


def test_a_box_is_asked_for_as_in_the_benchmarks_and_told_in_pixels(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = answers(monkeypatch, "[0.10, 0.20, 0.50, 0.60]")
    answer = eyeswap.locate(vlm, IMAGE, "the red digit")
    assert box_request("the red digit") in prompts[0]
    assert answer.box_px == pytest.approx((20, 20, 100, 60))
    drawn = with_box(IMAGE, answer.box_px)
    assert drawn.getpixel((20, 40)) == (230, 30, 60)
    assert IMAGE.getpixel((20, 40)) == (200, 10, 10)


def test_choices_have_probabilities(vlm: VisionLanguageModel) -> None:
    answer = eyeswap.ask(vlm, IMAGE, "What is it?", choices=("a dog", "a cat", "a bus"))
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.text == max(answer.probabilities, key=lambda choice: answer.probabilities[choice])
    assert answer.seconds > 0


def test_letters_are_spelled_out_for_readers() -> None:
    assert [spelled_out(letter, "tallyqa") for letter in LETTERS] == [str(count) for count in range(16)]
    assert [spelled_out(text, "tallyqa") for text in ("", "Z", "7")] == ["", "Z", "7"]
    assert spelled_out("B", "vqav2") == "B"
    details = json.dumps({"choices": ["a dog", "a cat"]})
    assert [spelled_out(text, "own", details) for text in "ABC"] == ["a dog", "a cat", "C"]
