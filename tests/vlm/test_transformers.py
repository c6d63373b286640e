"""The VLM as transformers sees it: Auto classes, saving, loading, batched generation, with LLMs of several kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DynamicCache

from eyeswap.backbones.weights import load_backbone
from eyeswap.errors import CheckpointError, ShapeError, SpecError
from eyeswap.evaluation.generate import Generator, Request
from eyeswap.files import read_json, write_json
from eyeswap.tokens.cache import cache_tokens
from eyeswap.vlm import VisionLanguageConfig, VisionLanguageModel, VisionLanguageProcessor
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import load_llm

QUESTIONS = ["How many digits are there?", "Hi", "What is left of the blue circle? Tell me all about it.", "Where?"]


def build(folder: Path) -> VisionLanguageModel:
    llm, tokenizer, prompt = load_llm(folder)
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, llm.config.hidden_size, seed=1)
    return VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone)


@pytest.fixture(scope="module")
def saved(other_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    build(other_llm).save(folder)
    return folder


@pytest.fixture
def small(tiny_llm: Path, tmp_path: Path) -> Path:
    build(tiny_llm).save(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (50 + 20 * n, 80, 3), np.uint8)) for n in range(4)]


def answers(model, processor, images, texts, **options) -> list[str]:
    inputs = processor(images=images, text=texts)
    produced = model.generate(**inputs, max_new_tokens=10, **options)
    return processor.batch_decode(produced[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_auto_classes_open_a_saved_folder(saved: Path, other_llm: Path):
    config, processor = AutoConfig.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    model, original = AutoModelForImageTextToText.from_pretrained(saved), build(other_llm)
    assert isinstance(config, VisionLanguageConfig)
    assert isinstance(processor, VisionLanguageProcessor)
    assert isinstance(model, VisionLanguageModel)
    assert not model.training
    state, expected = model.state_dict(), original.state_dict()
    assert state.keys() == expected.keys()
    assert all(state[key].equal(expected[key]) for key in state)
    tied = [m.get_input_embeddings().weight is m.get_output_embeddings().weight for m in (model, original)]
    assert tied == [config.text_config.tie_word_embeddings] * 2
    assert processor.prompt.question("Hi") == original.prompt.question("Hi")
    assert not any("/" in str(value) for value in (config.text_config.name_or_path, config.backbone))


def test_a_batch_is_answered_as_one_by_one(saved: Path, images: list[Image.Image]):
    model, processor = VisionLanguageModel.load(saved), AutoProcessor.from_pretrained(saved)
    texts = [processor.prompt.question(question) for question in QUESTIONS]
    together = answers(model, processor, images, texts)
    alone = [answers(model, processor, image, text)[0] for image, text in zip(images, texts, strict=True)]
    assert together == alone
    assert len(set(together)) > 1
    assert answers(model, processor, images, texts, use_cache=False) == together


@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")  # the name that all releases know
def test_generation_continues_from_a_cache(saved: Path, images: list[Image.Image]):
    model, processor = VisionLanguageModel.load(saved), AutoProcessor.from_pretrained(saved)
    inputs = processor(images=images[:3], text=[processor.prompt.question(question) for question in QUESTIONS[:3]])
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(**inputs, max_new_tokens=5, past_key_values=cache)
    assert first.equal(model.generate(**inputs, max_new_tokens=5))
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 5, dtype=torch.long)], dim=1)
    longer = {**inputs, "input_ids": first, "attention_mask": mask}
    assert cache.get_seq_length() == first.shape[1] - 1
    continued = model.generate(**longer, max_new_tokens=5, past_key_values=cache)
    assert continued.equal(model.generate(**longer, max_new_tokens=5))


def test_beams_and_samples_do_not_depend_on_batch_mates(saved: Path, images: list[Image.Image]):
    model, processor = VisionLanguageModel.load(saved), AutoProcessor.from_pretrained(saved)
    texts = [processor.prompt.question(question) for question in QUESTIONS[:3]]
    beams = {"num_beams": 3, "early_stopping": True}
    together = answers(model, processor, images[:3], texts, **beams)
    alone = [answers(model, processor, image, text, **beams)[0] for image, text in zip(images[:3], texts, strict=True)]
    assert together == alone
    torch.manual_seed(0)
    sampled = answers(model, processor, images[:3], texts, do_sample=True, temperature=2.0)
    torch.manual_seed(0)
    assert sampled == answers(model, processor, images[:3], texts, do_sample=True, temperature=2.0)
    assert sampled != answers(model, processor, images[:3], texts)


def test_the_image_token_is_never_generated(saved: Path, images: list[Image.Image]):
    model, processor = VisionLanguageModel.load(saved), AutoProcessor.from_pretrained(saved)
    image_id = model.config.image_token_id
    if image_id >= model.get_output_embeddings().weight.shape[0]:
        return  # beyond the vocabulary: there is nothing to suppress
    text = processor.prompt.question("Hi")
    inputs, request = processor(images=images[0], text=text), Request(text, (), 4)
    logits = model.get_output_embeddings()
    prefer_image = logits.register_forward_hook(
        lambda layer, hidden, scores: scores.index_fill(-1, torch.tensor(image_id), 1e4)
    )
    answer = Generator(model).answer(model.encode(inputs["pixel_values"]), [[request]])[0][0]
    produced = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    prefer_image.remove()
    assert image_id not in produced.tolist()
    assert answer.text == processor.decode(produced, skip_special_tokens=True).strip()
    assert answer.num_tokens == 4 or produced[-1] == processor.tokenizer.eos_token_id


def test_models_of_earlier_versions_never_generate_it_either(small: Path):
    settings = read_json(small / "generation_config.json")
    assert settings.pop("suppress_tokens") == [read_json(small / "config.json")["image_token_id"]]
    write_json(small / "generation_config.json", settings)
    model = AutoModelForImageTextToText.from_pretrained(small)
    assert model.generation_config.suppress_tokens == [model.config.image_token_id]


def test_texts_with_and_without_image_go_together(saved: Path, images: list[Image.Image]):
    model, processor = VisionLanguageModel.load(saved), AutoProcessor.from_pretrained(saved)
    texts = [processor.prompt.question(question) for question in QUESTIONS]
    mixed = answers(model, processor, [images[0], None, images[2], None], texts)
    assert mixed[0] == answers(model, processor, images[0], texts[0])[0]
    assert mixed[3] == answers(model, processor, None, texts[3])[0]
    assert mixed[3] != answers(model, processor, images[3], texts[3])[0]


def test_the_processor_puts_images_where_the_model_expects_them(saved: Path, images: list[Image.Image]):
    model, processor = VisionLanguageModel.load(saved), AutoProcessor.from_pretrained(saved)
    text = processor.prompt.question("What?")
    inputs = processor(images=images[0], text=text)
    ids = processor(text=text)["input_ids"][0].tolist()
    tokens = model.encode(inputs["pixel_values"])
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = model.llm(inputs_embeds=model.embed(torch.tensor([model.insert_visual(ids, 64)]), tokens)).logits
        given = model(inputs["input_ids"], inputs["attention_mask"], visual_tokens=tokens).logits
    assert logits.shape[1] == len(ids) + 64
    assert logits.equal(given)
    torch.testing.assert_close(logits, expected)
    lead = int(model.config.bos_first)
    assert (inputs["input_ids"][0, lead : lead + 64] == model.config.image_token_id).all()


def test_cached_tokens_and_pixels_give_equal_logits(small: Path, images: list[Image.Image], tmp_path: Path):
    model = VisionLanguageModel.load(small)
    names = [f"{number}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        image.save(tmp_path / name)
    cache = cache_tokens(tmp_path / "tokens", model.backbone, tmp_path, names)
    inputs = model.processor(images=images[2], text="x")
    seen = model(**inputs).logits
    cached = model(inputs["input_ids"], inputs["attention_mask"], visual_tokens=cache[names[2:3]]).logits
    assert seen.equal(cached)


def test_training_through_forward_learns_the_connector(small: Path, images: list[Image.Image]):
    model = VisionLanguageModel.load(small)
    inputs = model.processor(images=images, text=[model.prompt.question(question) for question in QUESTIONS])
    model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100) % 600).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.backbone.network.parameters())


def test_the_number_of_visual_tokens_must_fit(small: Path):
    model = VisionLanguageModel.load(small)
    with pytest.raises(ShapeError, match="room for 0 visual tokens, 5 were given"):
        model(torch.tensor([[0, 40, 41]]), visual_tokens=torch.zeros(1, 5, 128))


@pytest.mark.parametrize("wiring", ["controlled", "as-published"])
def test_the_backbone_stays_out_of_training_unless_as_published(tiny_llm: Path, wiring):
    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-mambavision", wiring=wiring)
    connector = build_connector("linear", backbone.network.embed_dim, 32, 1)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).train()
    assert backbone.network.training == (wiring == "as-published")
    assert not model.eval().backbone.network.training
    assert not any(name.startswith("backbone") for name, _ in model.named_modules())
    half = model.to(torch.bfloat16)
    assert half.connector[0].weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in backbone.network.parameters()} == {torch.float32}


def test_the_backbone_is_named_not_stored_unless_asked_for(small: Path, tmp_path: Path, images: list[Image.Image]):
    assert not (small / "backbone.safetensors").exists()
    model = VisionLanguageModel.load(small)
    pixels = model.processor(images=images[0], text="x")["pixel_values"]
    model.save_pretrained(tmp_path / "whole", include_backbone=True)
    model.processor.save_pretrained(tmp_path / "whole")
    whole = VisionLanguageModel.load(tmp_path / "whole")
    assert whole.encode(pixels).equal(model.encode(pixels))
    whole.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip
    (tmp_path / "whole" / "backbone.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"backbone\.safetensors is missing"):
        VisionLanguageModel.load(tmp_path / "whole").encode(pixels)


def test_another_backbone_than_in_training_is_refused(small: Path):
    config = read_json(small / "config.json")
    write_json(small / "config.json", {**config, "weights_sha256": "0" * 64})
    with pytest.raises(CheckpointError, match="trained with 000000000000"):
        _ = VisionLanguageModel.load(small).backbone
    write_json(small / "config.json", {**config, "backbone": ""})
    with pytest.raises(SpecError, match="pass visual_tokens"):
        _ = VisionLanguageModel.load(small).backbone


def damage(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    state = load_file(weights)
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:10_000])
    elif kind == "no weights":
        weights.unlink()
    elif kind == "missing":
        save_file({key: value for key, value in state.items() if "norm" not in key}, weights, {"format": "pt"})
    elif kind == "unexpected":
        save_file({**state, "spare": torch.zeros(1)}, weights, {"format": "pt"})
    elif kind == "shape":
        save_file({**state, "connector.2.bias": torch.zeros(1)}, weights, {"format": "pt"})
    elif kind == "no processor":
        (folder / "processor_config.json").unlink()
    elif kind == "other model":
        write_json(folder / "config.json", {"model_type": "llama"})
    else:
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("truncated", "incomplete metadata"),
        ("no weights", r"no file named model\.safetensors"),
        ("missing", r"missing weights llm\.model\.layers\.0\.input_layernorm\.weight and 2 more"),
        ("unexpected", "unexpected weights spare"),
        ("shape", r"mismatched weights connector\.2\.bias"),
        ("no processor", r"processor_config\.json is missing"),
        ("other model", "describes a llama model, not an eyeswap VLM"),
        ("no json", "not a valid JSON"),
    ],
)
def test_a_damaged_folder_is_one_line(small: Path, kind: str, told: str, capfd: pytest.CaptureFixture[str]):
    damage(small, kind)
    with pytest.raises(CheckpointError, match=told) as caught:
        VisionLanguageModel.load(small)
    assert str(caught.value).startswith(f"{small}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
