"""Tiny language models of several kinds, random: each with a tokenizer and a template of its own."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
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


def byte_tokenizer(special: list[str], adds_bos: bool = False, **roles: str) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes and some special tokens."""
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(special)
    if adds_bos:
        bos = roles["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
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
