"""Any causal LM: padding, image token, BOS and chat frame follow clear rules, whatever the tokenizer is like."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch

from eyeswap.errors import CheckpointError, SpecError
from eyeswap.files import read_json, write_json
from eyeswap.training.collate import encode_conversation
from eyeswap.vlm.llm import begins_with_bos, load_llm, load_tokenizer
from eyeswap.vlm.prompt import IMAGE_PLACEHOLDER, TemplatePrompt, VicunaPrompt

# pad token, whether sequences begin with BOS, chat frame, rows of the embedding
EXPECTED = {
    "llama": ("<PAD>", True, TemplatePrompt, 320),  # 259 tokens and <PAD>, to the next multiple of 64
    "qwen2": ("<PAD>", False, TemplatePrompt, 320),
    "gpt_neox": ("<PAD>", False, VicunaPrompt, 320),
}


def test_every_llm_gets_padding_image_token_and_frame(other_llm: Path):
    llm, tokenizer, prompt = load_llm(other_llm)
    pad, bos_first, frame, rows = EXPECTED[read_json(other_llm / "config.json")["model_type"]]
    assert tokenizer.pad_token == pad
    assert tokenizer.pad_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER) == len(tokenizer) - 1
    assert begins_with_bos(tokenizer, prompt) == bos_first
    assert isinstance(prompt, frame)
    assert llm.get_input_embeddings().num_embeddings == llm.config.vocab_size == rows
    assert not llm.training


def test_new_rows_are_the_same_every_time_and_leave_other_randomness_alone(other_llm: Path):
    torch.manual_seed(3)
    first = load_llm(other_llm)[0].get_input_embeddings().weight
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert drawn == torch.rand(1)
    assert load_llm(other_llm)[0].get_input_embeddings().weight.equal(first)


def test_what_is_trained_is_what_is_asked(other_llm: Path):
    """The ids of a training conversation begin with those of its question, and are those of the whole text."""
    _, tokenizer, prompt = load_llm(other_llm)
    encoded = encode_conversation(["<image>\nHow many?", "two", "Sure?", "yes"], prompt, tokenizer, 1000)
    question = tokenizer(prompt.question("How many?"))["input_ids"]
    assert list(encoded.input_ids[: len(question)]) == question
    assert set(encoded.labels[: len(question)]) == {-100}
    learned = tokenizer.decode([label for label in encoded.labels if label != -100])
    assert "two" in learned
    assert "yes" in learned
    assert "Sure" not in learned
    assert tokenizer.eos_token in learned
    if isinstance(prompt, TemplatePrompt):
        whole = tokenizer(prompt.conversation(["How many?", "two", "Sure?", "yes"]))["input_ids"]
        assert list(encoded.input_ids) == whole


def test_a_folder_may_ask_for_the_vicuna_frame_with_a_system_text_of_its_own(tiny_llm: Path):
    _, tokenizer, prompt = load_llm(tiny_llm)
    assert prompt == VicunaPrompt(system="", end_of_answer="</s>")
    assert tokenizer.pad_token == "<pad>"  # it has one that means nothing else


@pytest.mark.parametrize("name", ["no-such-llm", "a/b/c"])
def test_what_is_neither_folder_nor_hub_name_is_one_line(name: str):
    with pytest.raises(CheckpointError, match=r"no such folder, and not a Hugging Face name") as caught:
        load_llm(name)
    assert "\n" not in str(caught.value)


def test_a_hub_name_offline_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"lmsys/vicuna-7b-v1\.5: neither a folder nor in the Hub's cache"
    ) as caught:
        load_llm("lmsys/vicuna-7b-v1.5")
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_one_line(tiny_llm: Path, tmp_path: Path):
    for file in tiny_llm.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .*model\.safetensors") as caught:
        load_llm(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_llm_that_changes_its_logits_afterwards_is_refused(tiny_llm: Path, tmp_path: Path):
    for file in tiny_llm.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "final_logit_softcapping": 30.0})
    with pytest.raises(SpecError, match="final_logit_softcapping"):
        load_llm(tmp_path)


def test_a_tokenizer_in_the_format_of_vicuna_loads(tmp_path: Path):
    """Vicuna comes with a sentencepiece model alone, pads with ``<unk>``, and has no chat template."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"USER: How many {n} are there? ASSISTANT: {n}" for n in range(300)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "pad_token": None}
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(tmp_path / "tokenizer_config.json", {**settings, **roles})
    write_json(tmp_path / "special_tokens_map.json", {**roles, "pad_token": "<unk>"})
    tokenizer, prompt = load_tokenizer(tmp_path)
    assert prompt == VicunaPrompt()
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<PAD>", 400)
    assert begins_with_bos(tokenizer, prompt)
    encoded = encode_conversation(["How many 7 are there?", "7"], VicunaPrompt(system=""), tokenizer, 100)
    assert tokenizer.decode(encoded.input_ids) == "<s> USER: How many 7 are there? ASSISTANT: 7</s>"
    assert tokenizer.decode([label for label in encoded.labels if label >= 0]) == "7</s>"
