"""Saved models in the hands of other people's tools: pipelines, Trainer, peft, another type, a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tiny_llms import llama, make_wild
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, pipeline

from eyeswap.backbones.weights import load_backbone
from eyeswap.vlm import VisionLanguageModel
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import load_llm

QUESTIONS = ["How many digits are there?", "Hi", "What is left of the blue circle? Tell me all about it."]
GREEDY = {"max_new_tokens": 5, "return_full_text": False, "do_sample": False}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llm")
    model, tokenizer = llama()
    make_wild(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    llm, tokenizer, prompt = load_llm(folder)
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, llm.config.hidden_size, seed=1)
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (50 + 20 * n, 80, 3), np.uint8)) for n in range(3)]


def chat(image: Image.Image | str, question: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]


def test_a_pipeline_gives_the_same_answers_alone_and_in_batches(saved: Path, images: list[Image.Image]):
    pipe = pipeline("image-text-to-text", model=str(saved))
    chats = [chat(image, question) for image, question in zip(images, QUESTIONS, strict=True)]
    alone = [pipe(text=one, **GREEDY)[0]["generated_text"] for one in chats]
    assert len(set(alone)) == 3
    for batch_size in (1, 3):
        batched = pipe(text=chats, batch_size=batch_size, **GREEDY)
        assert [row[0]["generated_text"] for row in batched] == alone
    plain = pipe(images=images[0], text=pipe.processor.prompt.question(QUESTIONS[0]), **GREEDY)
    assert plain[0]["generated_text"] == alone[0]
    model, processor = pipe.model, pipe.processor
    inputs = processor(images=images[0], text=processor.prompt.question(QUESTIONS[0]))
    produced = model.generate(**inputs, max_new_tokens=5)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(produced, skip_special_tokens=True) == alone[:1]
    placed = pipe.image_processor(images)
    assert placed["pixel_values"].shape == (3, 3, 128, 128)
    assert placed["pixel_values"][:1].equal(inputs["pixel_values"])


def test_a_pipeline_continues_an_answer_that_was_begun(saved: Path, images: list[Image.Image]):
    pipe = pipeline("image-text-to-text", model=str(saved))
    begun = [*chat(images[0], "Hi"), {"role": "assistant", "content": [{"type": "text", "text": "two red"}]}]
    text = pipe.processor.apply_chat_template(begun, continue_final_message=True)
    assert text.startswith(pipe.processor.prompt.question("Hi"))
    assert text.endswith("two red")
    expected = pipe(images=images[0], text=text, **GREEDY)[0]["generated_text"]
    assert pipe(text=begun, **GREEDY)[0]["generated_text"] == expected


@pytest.mark.extended
def test_a_fresh_process_opens_a_saved_model_in_bfloat16(saved: Path, images: list[Image.Image], tmp_path: Path):
    images[0].save(tmp_path / "image.png")
    script = """
import json, sys
import eyeswap.vlm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline
folder, image, question = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="bfloat16", device_map="cpu")
pipe = pipeline("image-text-to-text", model=model, processor=AutoProcessor.from_pretrained(folder))
content = [{"type": "image", "url": image}, {"type": "text", "text": question}]
answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=5, return_full_text=False, do_sample=False)
types = sorted({str(parameter.dtype) for parameter in model.parameters()})
frozen = sorted({str(parameter.dtype) for parameter in model.backbone.network.parameters()})
print(json.dumps([AutoConfig.from_pretrained(folder).model_type, types, frozen, answer[0]["generated_text"]]))
"""
    command = [sys.executable, "-c", script, str(saved), str(tmp_path / "image.png"), QUESTIONS[0]]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kind, types, frozen, answer = json.loads(printed.splitlines()[-1])
    assert (kind, types, frozen) == ("eyeswap", ["torch.bfloat16"], ["torch.float32"])
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.bfloat16, device_map="cpu")
    processor = AutoProcessor.from_pretrained(saved)
    inputs = processor(images=images[0], text=processor.prompt.question(QUESTIONS[0])).to(dtype=torch.bfloat16)
    produced = model.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    assert answer == processor.decode(produced, skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("with_adapters", [False, True])
def test_trainer_and_peft_train_connector_and_llm(
    saved: Path, images: list[Image.Image], tmp_path: Path, with_adapters: bool
):
    model = VisionLanguageModel.load(saved)
    processor, frozen = model.processor, model.backbone.network
    rows = []
    for image, question in zip(images, QUESTIONS, strict=True):
        inputs = processor(images=image, text=processor.prompt.conversation([question, "two"]))
        ids = inputs["input_ids"][0]
        labels = ids.masked_fill(ids == model.config.image_token_id, -100)
        rows.append({**{key: value[0] for key, value in inputs.items()}, "labels": labels})
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    connector = model.connector[0].weight.clone()
    adapters = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["connector"])
    trained = get_peft_model(model, adapters) if with_adapters else model
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=1,
        learning_rate=1e-2,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(trained, arguments, train_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    assert all(before[name].equal(tensor) for name, tensor in frozen.state_dict().items())
    weights = dict(trained.named_parameters())
    name = "base_model.model.connector.modules_to_save.default.0.weight" if with_adapters else "connector.0.weight"
    assert not weights[name].equal(connector)
