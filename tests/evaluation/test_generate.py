from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyeswap.errors import SpecError
from eyeswap.evaluation.generate import (
    Generation,
    Generator,
    Question,
    Request,
    buckets,
    shared_prefix,
)
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.reading import spread

WORDS = [
    "How many?",
    "Which digit is red?",
    "What is left of the blue circle?",
    "Is there a red 3 in the image?",
]


@pytest.fixture
def wild_vlm(tiny_vlm: VisionLanguageModel) -> VisionLanguageModel:
    """An untrained LLM repeats one token; one with large weights does not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tiny_vlm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5, generator=generator)
    return tiny_vlm.eval()


def visual_tokens(images: int, tokens: int = 5) -> torch.Tensor:
    return torch.randn(images, tokens, 8, generator=torch.Generator().manual_seed(1))


def requests(images: int, choices: tuple[str, ...] = ()) -> list[list[Request]]:
    return [
        [Request(f"USER: {word} ASSISTANT:", choices, 12) for word in WORDS[: 1 + image % 4]] for image in range(images)
    ]


@torch.no_grad()
def by_hand(model: VisionLanguageModel, visual: torch.Tensor, request: Request) -> str:
    """Greedy decoding of one question, the whole sequence anew for every token."""
    ids = model.tokenizer(request.prompt)["input_ids"]
    start = len(ids)
    while len(ids) - start < request.max_new_tokens:
        embedded = model.embed(torch.tensor([model.insert_visual(ids, len(visual))]), visual)
        token = int(model.llm(inputs_embeds=embedded).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def texts(answers: Sequence[Sequence[Generation]]) -> list[list[str]]:
    return [[one.text for one in row] for row in answers]


def test_shared_prefix_and_batching_change_no_answer(wild_vlm: VisionLanguageModel):
    visual, asked = visual_tokens(8), requests(8)
    alone = [[by_hand(wild_vlm, visual[image], one) for one in row] for image, row in enumerate(asked)]
    assert texts(Generator(wild_vlm).answer(visual, asked)) == alone
    assert texts(Generator(wild_vlm, batch=1).answer(visual, asked)) == alone
    assert len({text for row in alone for text in row}) > 1


words = st.sampled_from(["How", "many", "digits", "are", "red", "left", "of", "blue", "circle", "?"])
question = st.lists(words, min_size=1, max_size=40)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    images=st.lists(st.lists(question.map(" ".join), min_size=1, max_size=6), min_size=1, max_size=6),
    system=st.sampled_from(["", "A chat between a user and an assistant. "]),
    limits=st.lists(st.integers(1, 24), min_size=36, max_size=36),
)
def test_batch_1_and_batch_32_give_equal_text_whatever_the_lengths(
    wild_vlm: VisionLanguageModel, images: list[list[str]], system: str, limits: list[int]
):
    limit = iter(limits)
    asked = [[Request(f"{system}USER: {one} ASSISTANT:", (), next(limit)) for one in row] for row in images]
    visual = visual_tokens(len(asked))
    together = Generator(wild_vlm, batch=32).answer(visual, asked)
    one_by_one = [
        [Generator(wild_vlm, batch=1).answer(visual[image : image + 1], [[one]])[0][0] for one in row]
        for image, row in enumerate(asked)
    ]
    assert texts(together) == texts(one_by_one)
    for row, generations in zip(asked, together, strict=True):
        assert all(one.num_tokens <= request.max_new_tokens for request, one in zip(row, generations, strict=True))


def test_kinds_of_questions_mix_within_a_batch(wild_vlm: VisionLanguageModel):
    visual = visual_tokens(3)
    free, yes_no = requests(3), requests(3, ("Yes", "No"))
    mixed = [[*a, *b] for a, b in zip(free, yes_no, strict=True)]
    answers = Generator(wild_vlm).answer(visual, mixed)
    assert texts([row[: len(a)] for row, a in zip(answers, free, strict=True)]) == texts(
        Generator(wild_vlm).answer(visual, free)
    )
    for row, a in zip(answers, free, strict=True):
        for answer in row[len(a) :]:
            assert answer.probabilities is not None
            assert sum(answer.probabilities) == pytest.approx(1.0)
            assert answer.text == ("Yes", "No")[answer.probabilities.index(max(answer.probabilities))]


def test_choices_are_the_first_position_of_the_whole_sequence(wild_vlm: VisionLanguageModel):
    visual, asked = visual_tokens(2), requests(2, ("Yes", "No"))
    generator = Generator(wild_vlm)
    for image, row in enumerate(generator.answer(visual, asked)):
        for request, answer in zip(asked[image], row, strict=True):
            ids = wild_vlm.insert_visual(wild_vlm.tokenizer(request.prompt)["input_ids"], len(visual[image]))
            with torch.no_grad():
                embedded = wild_vlm.embed(torch.tensor([ids]), visual[image])
                logits = wild_vlm.llm(inputs_embeds=embedded).logits[0, -1]
            chances = logits.softmax(-1)[generator.choice_ids(("Yes", "No"))]
            assert answer.probabilities == pytest.approx((chances / chances.sum()).tolist(), rel=1e-4)


def test_images_with_different_numbers_of_tokens_are_answered_too(wild_vlm: VisionLanguageModel):
    tokens = [visual_tokens(1, count)[0] for count in (5, 9, 5)]
    asked = [[*row] for row in requests(3)]
    asked[1] = []
    alone = [[by_hand(wild_vlm, tokens[image], one) for one in row] for image, row in enumerate(asked)]
    assert texts(Generator(wild_vlm).answer(tokens, asked)) == alone


def test_an_answer_ends_when_it_is_decided(wild_vlm: VisionLanguageModel):
    visual = visual_tokens(1)
    asked = Request("USER: How many? ASSISTANT:", max_new_tokens=60)
    whole = Generator(wild_vlm).answer(visual, [[asked]])[0][0]
    short = Generator(wild_vlm).answer(visual, [[Request(asked.prompt, (), 60, lambda text: True)]])[0][0]
    assert whole.num_tokens > 8  # the test means nothing if the answer ends early
    assert short.num_tokens == 8
    assert whole.text.startswith(short.text)


def test_too_little_memory_halves_the_batch(wild_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch):
    visual, asked = visual_tokens(3), requests(3)
    expected = texts(Generator(wild_vlm).answer(visual, asked))
    fits = Generator._answer

    def small(self: Generator, tokens: Sequence[torch.Tensor], questions: Sequence[Sequence[Request]]):
        if sum(map(len, questions)) > 2:
            raise torch.OutOfMemoryError
        return fits(self, tokens, questions)

    monkeypatch.setattr(Generator, "_answer", small)
    assert texts(Generator(wild_vlm).answer(visual, asked)) == expected
    monkeypatch.setattr(Generator, "_answer", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(torch.OutOfMemoryError):
        Generator(wild_vlm).answer(visual, asked)


def test_a_choice_must_be_one_token(tiny_vlm: VisionLanguageModel):
    with pytest.raises(SpecError, match="must be one"):
        Generator(tiny_vlm).choice_ids(["a purple square"])


def test_prompts_are_cut_after_the_longest_input(tiny_vlm: VisionLanguageModel):
    tiny_vlm.tokenizer.model_max_length = 6
    assert [len(ids) for ids in Generator(tiny_vlm).prompt_ids(["red " * 50, "red"])] == [6, 2]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_shared_prefix_is_the_longest_that_leaves_a_token_of_each(prompts: list[list[int]]):
    shared = shared_prefix(prompts)
    assert all(prompt[: len(shared)] == shared and len(prompt) > len(shared) for prompt in prompts)
    longer = [prompt[: len(shared) + 1] for prompt in prompts]
    assert any(one != longer[0] for one in longer) or any(len(prompt) == len(shared) + 1 for prompt in prompts)


def test_buckets_hold_one_kind_and_similar_lengths():
    asked = [
        Question(0, [0] * length, Request("", choices)) for length in (3, 40, 4, 5, 90, 6) for choices in ((), ("Yes",))
    ]
    parts = list(buckets(asked, 2))
    assert sorted(number for part in parts for number in part) == list(range(12))
    for part in parts:
        lengths = [len(asked[number].ids) for number in part]
        assert len(part) <= 2
        assert max(lengths) <= 2 * min(lengths)
        assert len({asked[number].request.choices for number in part}) == 1


def test_the_cache_continues_rows_and_drops_them():
    from transformers import DynamicCache

    prefix = DynamicCache()
    prefix.update(torch.arange(4.0).view(2, 1, 2, 1), torch.arange(4.0).view(2, 1, 2, 1) + 10, 0)
    cache = spread(prefix, torch.tensor([1, 1, 0]), 1)
    steps = [torch.full((3, 1, 1, 1), 7.0 + step) for step in range(40)]  # more than the room that was made
    for step in steps:
        keys, values = cache.update(step, step, 0)
    assert keys[:, 0, :3, 0].tolist() == [[2, 3, 7], [2, 3, 7], [0, 1, 7]]
    assert keys.shape[2] == 42 == cache.get_seq_length()
    assert values[0, 0, :2, 0].tolist() == [12, 13]
    cache.reorder_cache(torch.tensor([2]))
    keys, _ = cache.update(steps[0][:1], steps[0][:1], 0)
    assert keys[0, 0, [0, 1, 41, 42], 0].tolist() == [0, 1, 46, 7]
    assert prefix.get_seq_length() == 2
