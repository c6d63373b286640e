from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from eyeswap.data.formats.boxes import BOX_REQUEST
from eyeswap.data.formats.tallyqa import count_message
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.pretraining.language import LLM_RECIPES, Cycle, LanguageRecipe, encode_text, pretrain_language_model
from eyeswap.pretraining.texts import make_text
from eyeswap.shipped import llm_path


def test_the_tokenizer_keeps_every_text_and_makes_instructions_one_token(tiny_llm: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    texts = [
        f"USER: How many?\n{SHORT_ANSWER} ASSISTANT:",
        f'USER: {BOX_REQUEST}"red 3" ASSISTANT:',
        f"USER: {count_message('How many?')} ASSISTANT:",
        "[0.12, 0.40, 0.56, 1.00]",
        "Wörter, die keine Szene kennt: été 🙂",
    ]
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len(tokenizer(BOX_REQUEST, add_special_tokens=False).input_ids) == 1
    assert len(tokenizer(texts[3], add_special_tokens=False).input_ids) == 9
    for choice in ("Yes", "No", *"ABCDEFGHIJKLMNOP"):
        assert len(tokenizer(choice, add_special_tokens=False).input_ids) == 1


def test_a_text_is_64_words_and_a_conversation_with_labels_on_answers_alone(tiny_llm: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    words, turns = make_text(7, 3)
    assert len(words) == 64
    assert len(make_text(7, 3, raster=16)[0]) == 256
    ids, labels = encode_text((words, turns), tokenizer)
    assert len(ids) == len(labels)
    assert set(labels[:65]) == {-100}
    told = tokenizer.decode([label for label in labels if label != -100])
    assert told == "".join(f"{answer}</s>" for _, answer in turns)
    assert tokenizer.unk_token_id is None
    assert None not in ids


@pytest.mark.extended
def test_pretraining_the_llm_is_deterministic_and_lowers_the_loss():
    recipe = LanguageRecipe(
        cycles=(Cycle(96, 8, 3e-3), Cycle(64, 4, 1e-3)),
        held_out=8, batch_size=8, warmup_steps=2, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48,
    )  # fmt: skip
    runs = []
    for _ in range(2):
        losses: list[float] = []
        _, _, metrics = pretrain_language_model(recipe, lambda step, loss, seen=losses: seen.append(loss))
        runs.append((losses, metrics))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == 12
    assert runs[0][0][-1] < runs[0][0][0]


def test_further_training_starts_from_the_shipped_llm_and_keeps_its_tokenizer():
    recipe = replace(LLM_RECIPES["digits-llm-raster-8"], cycles=(Cycle(32, 2, 1e-4),), held_out=32, batch_size=8)
    model, tokenizer, metrics = pretrain_language_model(recipe, lambda step, loss: None)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(llm_path("digits-llm")).get_vocab()
    assert model.num_parameters() == 893_056
    assert metrics["answer_accuracy"] > 0.4  # two steps from scratch give 0
