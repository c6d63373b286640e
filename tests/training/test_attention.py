"""Packed rows: every conversation gives what it gives alone, values and gradients."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from eyeswap.training.attention import can_pack, packed_attention
from eyeswap.training.collate import Encoded, pack, pad
from eyeswap.training.learner import Learner
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 90,
}


def llama(**changes: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes}))


def mistral(**changes: object) -> MistralForCausalLM:
    return MistralForCausalLM(MistralConfig(**{**SIZES, "num_key_value_heads": 2, **changes}))


def qwen(**changes: object) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "num_key_value_heads": 2, **changes}))


@pytest.mark.parametrize("llm", [llama(), llama(num_key_value_heads=1), mistral(sliding_window=None), qwen()])
def test_a_packed_row_gives_what_its_conversations_give_alone(llm):
    torch.manual_seed(0)
    llm = llm.double()
    lengths = (5, 1, 9, 3)
    rows = [torch.randn(1, length, 32, dtype=torch.float64, requires_grad=True) for length in lengths]
    alone = [llm.base_model(inputs_embeds=row, use_cache=False).last_hidden_state for row in rows]
    weights = [torch.randn_like(one) for one in alone]
    wanted = torch.autograd.grad(sum((one * w).sum() for one, w in zip(alone, weights, strict=True)), rows)
    starts = torch.tensor([0, 5, 6, 15, 18], dtype=torch.int32)
    borders = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 9, "max_length_k": 9}
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with packed_attention(llm):
        packed = llm.base_model(
            inputs_embeds=torch.cat(rows, dim=1), use_cache=False, position_ids=positions, **borders
        ).last_hidden_state
        torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-12, atol=1e-12)
        given = torch.autograd.grad((packed * torch.cat(weights, dim=1)).sum(), rows)
    for one, other in zip(wanted, given, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_settings_that_packing_does_not_follow_are_known():
    assert can_pack(llama())
    assert can_pack(mistral(sliding_window=None))
    assert not can_pack(mistral(sliding_window=4))
    assert not can_pack(llama(attention_dropout=0.1))


def test_a_packed_batch_has_the_loss_and_gradients_of_a_padded_one(tiny_llm: Path):
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector("gelu-mlp", 8, 32, seed=1)
    vlm = VisionLanguageModel.from_parts(llm.double(), tokenizer, connector.double(), prompt)
    learner = Learner(vlm)
    torch.manual_seed(0)
    rows = [Encoded(tuple(ids), (-100,) * 2 + tuple(ids[2:])) for ids in ([1, 5, 6, 7], [1, 8], [1, 9, 10, 11, 12, 13])]
    num_visual = (4, 0, 4)
    visual = torch.randn(2, 4, 8, dtype=torch.float64)
    image_id = vlm.config.image_token_id

    def losses(batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        learner.zero_grad()
        loss = learner(batch, visual, True)
        loss.backward()
        return loss.detach(), [one.grad.clone() for one in learner.parameters() if one.grad is not None]

    padded = losses(pad(rows, num_visual, image_id, True, 0))
    with packed_attention(llm):
        packed = losses(pack(rows, num_visual, image_id, True))
    torch.testing.assert_close(packed[0], padded[0], rtol=1e-12, atol=0)
    assert len(packed[1]) == len(padded[1])
    for one, other in zip(packed[1], padded[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_attention_of_before_comes_back(tiny_llm: Path):
    llm, _, _ = load_llm(tiny_llm)
    before = llm.config._attn_implementation
    with packed_attention(llm):
        assert llm.config._attn_implementation != before
    assert llm.config._attn_implementation == before
