import pytest
import torch

from eyeswap.errors import SpecError
from eyeswap.evaluation.generate import Generator, Request
from eyeswap.vlm.model import VisionLanguageModel

WORDS = [
    "How many?",
    "Which digit is red?",
    "What is left of the blue circle?",
    "Is there a red 3 in the image?",
]


def requests(images: int, choices: tuple[str, ...] = ()) -> list[list[Request]]:
    return [
        [Request(str(image), f"USER: {word} ASSISTANT:", choices, 12) for word in WORDS[: 1 + image % 4]]
        for image in range(images)
    ]


def by_hand(model: VisionLanguageModel, visual: torch.Tensor, request: Request) -> str:
    """Greedy decoding of one question, the whole sequence anew for every token."""
    ids = model.tokenizer(request.prompt)["input_ids"]
    start = len(ids)
    while len(ids) - start < request.max_new_tokens:
        embedded = model.embed(visual[None], torch.tensor([ids]))
        token = int(model.llm(inputs_embeds=embedded).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@torch.no_grad()
def test_shared_prefix_and_batching_change_no_answer(tiny_vlm: VisionLanguageModel):
    generator = torch.Generator().manual_seed(0)
    for parameter in tiny_vlm.parameters():  # an untrained LLM repeats one token; a wild one does not
        if parameter.ndim > 1:
            parameter.normal_(std=0.5, generator=generator)
    visual = torch.randn(8, 5, 8, generator=generator)
    asked = requests(8)
    large = [one.text for row in Generator(tiny_vlm).answer(visual, asked) for one in row]
    small = [one.text for row in Generator(tiny_vlm, questions_per_batch=1).answer(visual, asked) for one in row]
    alone = [by_hand(tiny_vlm, visual[image], one) for image, row in enumerate(asked) for one in row]
    assert large == small == alone
    assert len(set(large)) > 1


def test_choices_are_read_from_the_first_position(tiny_vlm: VisionLanguageModel):
    visual = torch.randn(3, 5, 8)
    for row in Generator(tiny_vlm).answer(visual, requests(3, ("Yes", "No"))):
        for answer in row:
            assert answer.probabilities is not None
            assert sum(answer.probabilities) == pytest.approx(1.0)
            assert answer.text == ("Yes", "No")[answer.probabilities.index(max(answer.probabilities))]


def test_a_choice_must_be_one_token(tiny_vlm: VisionLanguageModel):
    with pytest.raises(SpecError, match="must be one"):
        Generator(tiny_vlm).choice_ids(["a purple square"])
