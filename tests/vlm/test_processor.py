"""The processor: images onto canvases, prompts into ids with room for visual tokens behind BOS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyeswap.backbones.weights import load_backbone
from eyeswap.errors import DataError, ShapeError, SpecError
from eyeswap.vlm import VisionLanguageModel, VisionLanguageProcessor
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.llm import load_llm

RED, BLUE = Image.new("RGB", (60, 40), (255, 0, 0)), Image.new("RGB", (40, 90), (0, 0, 255))


def make(llm: Path, geometry: str | None = None, wiring="controlled") -> VisionLanguageProcessor:
    _, tokenizer, prompt = load_llm(llm)
    return VisionLanguageProcessor.of(tokenizer, prompt, load_backbone("digits-vit", geometry=geometry, wiring=wiring))


def room(processor: VisionLanguageProcessor, inputs) -> list[int]:
    return (inputs["input_ids"] == processor.image_token_id).sum(dim=1).tolist()


def test_visual_tokens_go_behind_bos_and_padding_to_the_left(tiny_llm: Path):
    processor = make(tiny_llm)
    short, long = processor.prompt.question("Hi"), processor.prompt.question("How many digits are there?")
    inputs = processor(images=[RED, BLUE], text=[short, long])
    plain = processor.tokenizer(short)["input_ids"]
    expected = [plain[0], *[processor.image_token_id] * 64, *plain[1:]]
    gap = inputs["input_ids"].shape[1] - len(expected)
    assert gap > 0
    assert inputs["input_ids"][0].tolist() == [processor.tokenizer.pad_token_id] * gap + expected
    assert inputs["attention_mask"][0].tolist() == [0] * gap + [1] * len(expected)
    assert inputs["attention_mask"][1].all()
    assert inputs["pixel_values"].equal(torch.stack([processor.image_geometry.place(one)[0] for one in (RED, BLUE)]))


@pytest.mark.parametrize(
    "text", ["USER: <image>\nHi ASSISTANT:", "USER: Hi\n<image> ASSISTANT:", "<image>USER: Hi ASSISTANT:"]
)
def test_the_placeholder_leaves_the_text_wherever_it_stands(tiny_llm: Path, text: str):
    processor = make(tiny_llm)
    expected = processor(images=RED, text="USER: Hi ASSISTANT:")
    assert processor(images=RED, text=text)["input_ids"].equal(expected["input_ids"])


def test_images_find_their_texts(tiny_llm: Path):
    processor = make(tiny_llm)
    with_image, without = "USER: <image>\nHi ASSISTANT:", "USER: Hi ASSISTANT:"
    assert room(processor, processor(images=[RED, None], text=[without, without])) == [64, 0]
    assert room(processor, processor(images=[RED], text=[without, with_image])) == [0, 64]
    assert room(processor, processor(images=[[], [RED]], text=[without, without])) == [0, 64]
    assert room(processor, processor(text=without)) == [0]
    with pytest.raises(DataError, match="1 images for 2 texts"):
        processor(images=[RED], text=[without, without])
    with pytest.raises(DataError, match="text 2 has 2 images"):
        processor(images=[[RED], [RED, BLUE]], text=[without, without])


def test_images_come_as_files_or_arrays_too(tiny_llm: Path, tmp_path: Path):
    processor = make(tiny_llm)
    BLUE.save(tmp_path / "blue.png")
    expected = processor(images=BLUE, text="x")["pixel_values"]
    for image in (tmp_path / "blue.png", str(tmp_path / "blue.png"), np.array(BLUE)):
        assert processor(images=image, text="x")["pixel_values"].equal(expected)
    with pytest.raises(DataError, match=r"nothing\.png: no such image"):
        processor(images=tmp_path / "nothing.png", text="x")
    with pytest.raises(ShapeError, match="not int"):
        processor(images=3, text="x")


def test_a_chat_is_written_in_the_frame_of_the_model(tiny_llm: Path):
    processor = make(tiny_llm)
    content = [{"type": "image", "image": RED}, {"type": "text", "text": "<image>\nHi"}]
    chat = [{"role": "user", "content": content}]
    assert processor.apply_chat_template(chat) == "USER: Hi ASSISTANT:"
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    expected = processor(images=RED, text="USER: Hi ASSISTANT:")
    assert all(inputs[key].equal(expected[key]) for key in expected)
    longer = [{"role": "system", "content": "Be brief."}, *chat, {"role": "assistant", "content": "Hello"}]
    longer.append({"role": "user", "content": "And?"})
    assert processor.apply_chat_template([longer]) == ["Be brief. USER: Hi ASSISTANT: Hello</s>USER: And? ASSISTANT:"]
    with pytest.raises(SpecError, match="turn 2: role 'user', expected 'assistant'"):
        processor.apply_chat_template([*chat, *chat])
    with pytest.raises(SpecError, match="the chat frame belongs to the model"):
        processor.apply_chat_template(chat, chat_template="{{ messages }}")


def test_without_a_backbone_images_are_refused(tiny_llm: Path):
    _, tokenizer, prompt = load_llm(tiny_llm)
    with pytest.raises(SpecError, match="pass visual_tokens"):
        VisionLanguageProcessor.of(tokenizer, prompt)(images=RED, text="x")


def test_canvases_that_vary_are_padded_with_zeros_and_seen_each_by_itself(tiny_llm: Path):
    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-vmamba", geometry="keep-ratio-64x128")
    model = VisionLanguageModel.from_parts(llm, tokenizer, build_connector("linear", 128, 32, 1), prompt, backbone)
    processor = model.processor
    inputs = processor(images=[RED, BLUE], text=["x", "x"])
    assert inputs["image_sizes"].tolist() == [[64, 96], [128, 64]]
    assert inputs["pixel_values"].shape == (2, 3, 128, 96)
    assert not inputs["pixel_values"][0, :, 64:].any()
    assert room(processor, inputs) == [4 * 6, 8 * 4]
    together = model.encode(inputs["pixel_values"], inputs["image_sizes"])
    alone = [model.encode(processor(images=one, text="x")["pixel_values"])[0] for one in (RED, BLUE)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape


def test_as_published_the_padding_of_varying_canvases_is_seen(tiny_llm: Path):
    processor = make(tiny_llm, "keep-ratio-64x128", "as-published")
    inputs = processor(images=[RED, BLUE], text=["x", "x"])
    assert "image_sizes" not in inputs
    assert room(processor, inputs) == [8 * 6, 8 * 6]
