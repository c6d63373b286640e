"""Tiny language models of several kinds, random: each with a tokenizer and a template of its own."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


WORDS = [("Y", "e"), ("Ye", "s"), ("N", "o"), ("Ġ", "Yes"), ("Ġ", "No")]


def byte_tokenizer(
    special: list[str],
    adds_bos: bool = False,
    merges: list[tuple[str, str]] | None = None,
    adds_eos: bool = False,
    **roles: str,
) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes, whatever they are merged to, and some special tokens."""
    merges = merges or []
    words = sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(BPE({word: number for number, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(special)
    ends = [roles["bos_token"]] if adds_bos else [], [roles["eos_token"]] if adds_eos else []
    if adds_bos or adds_eos:
        tokenizer.post_processor = TemplateProcessing(
            single=" ".join([*ends[0], "$A", *ends[1]]),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (*ends[0], *ends[1])],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **roles)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def llama() -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """BOS added by the tokenizer and written by the template; pads with unk, as Vicuna's does; a full embedding."""
    tokenizer = byte_tokenizer(
        ["<unk>", "<s>", "</s>"], True, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    tokenizer.chat_template = LLAMA
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES)), tokenizer


def qwen() -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """No BOS at all, padding and unknown in one token, room to spare in the embedding, tied to the output."""
    tokenizer = byte_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    config = Qwen2Config(vocab_size=320, num_key_value_heads=1, tie_word_embeddings=True, **SIZES)
    return Qwen2ForCausalLM(config), tokenizer


def neox() -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """A BOS that the tokenizer never adds, no pad token, no template."""
    tokenizer = byte_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=320, **SIZES)), tokenizer


WINDOW = 24  # shorter than every prompt of the tests
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
STATE = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
KINDS = {
    "mistral": {**GROUPED, "sliding_window": WINDOW},
    "gemma3_text": {
        **GROUPED, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
    },
    "gpt_oss": {
        **GROUPED, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
        "num_local_experts": 2, "num_experts_per_tok": 1,
    },
    "opt": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 512},
    "mamba": STATE,
    "mamba2": {**STATE, "state_size": 16, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": STATE,
    "jamba": {
        **SIZES, "num_key_value_heads": 1, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1,
        "num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
}  # fmt: skip


def of_kind(name: str) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """An LLM of another kind, without a template: sliding windows, biases for distances, a state, or some of these."""
    tokenizer = neox()[1]
    config = AutoConfig.for_model(name, vocab_size=320, **KINDS[name])
    return AutoModelForCausalLM.from_config(config), tokenizer


def make_wild(model: torch.nn.Module) -> torch.nn.Module:
    """Give an LLM weights so large that it does not repeat one token."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model
