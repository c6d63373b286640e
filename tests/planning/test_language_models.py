"""The sizes that are known offline are those of the networks that transformers builds from the published numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from eyeswap.planning.cost import KNOWN, find_language_model
from eyeswap.planning.language_models import SIZES

# class, width, MLP, layers, heads, key-value heads, vocabulary, positions; whether input and output share a matrix
CONFIGS: dict[str, tuple[Any, int, int, int, int, int, int, int, bool, dict[str, Any]]] = {
    "lmsys/vicuna-7b-v1.5": (LlamaConfig, 4096, 11008, 32, 32, 32, 32000, 4096, False, {}),
    "lmsys/vicuna-13b-v1.5": (LlamaConfig, 5120, 13824, 40, 40, 40, 32000, 4096, False, {}),
    "meta-llama/Meta-Llama-3-8B": (LlamaConfig, 4096, 14336, 32, 32, 8, 128256, 8192, False, {}),
    "meta-llama/Llama-3.1-8B": (LlamaConfig, 4096, 14336, 32, 32, 8, 128256, 131072, False, {}),
    "meta-llama/Llama-3.2-1B": (LlamaConfig, 2048, 8192, 16, 32, 8, 128256, 131072, True, {"head_dim": 64}),
    "meta-llama/Llama-3.2-3B": (LlamaConfig, 3072, 8192, 28, 24, 8, 128256, 131072, True, {"head_dim": 128}),
    "Qwen/Qwen2.5-0.5B": (Qwen2Config, 896, 4864, 24, 14, 2, 151936, 32768, True, {}),
    "Qwen/Qwen2.5-1.5B-Instruct": (Qwen2Config, 1536, 8960, 28, 12, 2, 151936, 32768, True, {}),
    "Qwen/Qwen2.5-1.5B": (Qwen2Config, 1536, 8960, 28, 12, 2, 151936, 131072, True, {}),
    "Qwen/Qwen2.5-3B": (Qwen2Config, 2048, 11008, 36, 16, 2, 151936, 32768, True, {}),
    "Qwen/Qwen2.5-7B-Instruct": (Qwen2Config, 3584, 18944, 28, 28, 4, 152064, 32768, False, {}),
    "Qwen/Qwen2.5-7B": (Qwen2Config, 3584, 18944, 28, 28, 4, 152064, 131072, False, {}),
    "Qwen/Qwen3-0.6B": (Qwen3Config, 1024, 3072, 28, 16, 8, 151936, 40960, True, {"head_dim": 128}),
    "Qwen/Qwen3-1.7B": (Qwen3Config, 2048, 6144, 28, 16, 8, 151936, 40960, True, {"head_dim": 128}),
    "Qwen/Qwen3-4B": (Qwen3Config, 2560, 9728, 36, 32, 8, 151936, 40960, True, {"head_dim": 128}),
    "Qwen/Qwen3-8B": (Qwen3Config, 4096, 12288, 36, 32, 8, 151936, 40960, False, {"head_dim": 128}),
    "mistralai/Mistral-7B-v0.1": (MistralConfig, 4096, 14336, 32, 32, 8, 32000, 32768, False, {}),
    "mistralai/Mistral-7B-v0.3": (MistralConfig, 4096, 14336, 32, 32, 8, 32768, 32768, False, {}),
    "microsoft/phi-2": (PhiConfig, 2560, 10240, 32, 32, 32, 51200, 2048, False, {}),
    "microsoft/Phi-3-mini-4k-instruct": (Phi3Config, 3072, 8192, 32, 32, 32, 32064, 4096, False, {}),
    "google/gemma-2b": (GemmaConfig, 2048, 16384, 18, 8, 1, 256000, 8192, True, {"head_dim": 256}),
    "google/gemma-2-2b": (Gemma2Config, 2304, 9216, 26, 8, 4, 256000, 8192, True, {"head_dim": 256}),
    "google/gemma-3-1b-pt": (Gemma3TextConfig, 1152, 6912, 26, 4, 1, 262144, 32768, True, {"head_dim": 256}),
    "HuggingFaceTB/SmolLM2-135M": (LlamaConfig, 576, 1536, 30, 9, 3, 49152, 8192, True, {}),
    "HuggingFaceTB/SmolLM2-360M": (LlamaConfig, 960, 2560, 32, 15, 5, 49152, 8192, True, {}),
    "HuggingFaceTB/SmolLM2-1.7B": (LlamaConfig, 2048, 8192, 24, 32, 32, 49152, 8192, True, {}),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (LlamaConfig, 2048, 5632, 22, 32, 4, 32000, 2048, False, {}),
}


def test_every_known_model_is_checked() -> None:
    assert {SIZES[name] for name in CONFIGS} == set(SIZES.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_known_sizes_are_those_of_the_network(name: str) -> None:
    """One and two layers are built; all layers of a model have the same size."""
    kind, width, mlp, layers, heads, kv_heads, vocabulary, positions, is_tied, more = CONFIGS[name]
    parameters = []
    for num_layers in (1, 2):
        config = kind(
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            tie_word_embeddings=is_tied,
            pad_token_id=0,
            **more,
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        parameters.append(sum(parameter.numel() for parameter in model.parameters()))
    total = parameters[0] + (layers - 1) * (parameters[1] - parameters[0])
    multiplied = total if is_tied else total - vocabulary * width
    assert SIZES[name] == (total, multiplied, width, layers, positions, vocabulary)


def test_a_known_model_needs_no_files() -> None:
    assert find_language_model("Qwen/Qwen2.5-0.5B-Instruct") == KNOWN["Qwen/Qwen2.5-0.5B-Instruct"]
    assert find_language_model("meta-llama/Llama-3.2-1B").multiplied == 1_235_814_400
