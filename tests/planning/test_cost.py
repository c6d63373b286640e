"""Costs on paper agree with published arithmetic, and with networks as built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.planning.cost import (
    ACTIVATION_BYTES,
    KNOWN,
    connector_size,
    find_language_model,
    gpu_hours,
    prefill_flops,
    training_flops,
    training_memory,
)
from eyeswap.planning.hardware import GPUS, find_gpu
from eyeswap.shipped import SHIPPED_LLM, llm_path
from eyeswap.vlm.connector import build_connector

VICUNA = KNOWN["lmsys/vicuna-7b-v1.5"]
H200 = GPUS["h200"]


# Vicuna-7B with 300 text tokens: TFLOP a sample, samples a second and hours of 665,298 samples at 60% of 989 TFLOP/s.
@pytest.mark.parametrize(
    ("visual", "tflop", "per_second", "hours"),
    [(196, 19.9, 29.9, 6.2), (1024, 53.9, 11.0, 16.8), (4096, 189.5, 3.1, 59.0)],
)
def test_a_training_sample_costs_what_others_computed(
    visual: int, tflop: float, per_second: float, hours: float
) -> None:
    flops = training_flops(VICUNA, 0, visual, 300)
    assert flops / 1e12 == pytest.approx(tflop, rel=0.01)
    assert 0.6 * 989e12 / flops == pytest.approx(per_second, rel=0.02)
    assert gpu_hours(flops * 665_298, H200, 0.6) == pytest.approx(hours, rel=0.02)


def test_the_known_sizes_of_the_shipped_llm_are_those_of_the_model() -> None:
    built = find_language_model("built", llm_path(SHIPPED_LLM))
    assert replace(built, name=SHIPPED_LLM) == KNOWN[SHIPPED_LLM]


def test_reading_costs_a_third_of_training() -> None:
    assert prefill_flops(VICUNA, 10, 5, 7.0) == pytest.approx(training_flops(VICUNA, 10, 5, 7.0) / 3)


def test_states_of_a_seven_billion_model_take_sixteen_bytes_a_parameter() -> None:
    memory = training_memory(VICUNA, connector=0, backbone=0, gpu=H200, num_gpus=1)
    assert memory.states_gib == pytest.approx(100.4, rel=0.002)
    assert 5_500 < memory.plain_tokens < 6_500
    assert 10_000 < memory.elementwise_tokens < 12_000
    assert memory.checkpointed_tokens > 10 * memory.plain_tokens
    assert memory.fewest_gpus == 1


def test_a_llama_in_bf16_saves_as_many_bytes_as_the_estimate_says() -> None:
    width, length = 512, 64
    config = LlamaConfig(
        hidden_size=width, intermediate_size=width * 43 // 16, num_hidden_layers=4, num_attention_heads=4, vocab_size=64
    )
    llm = LlamaForCausalLM(config).to(torch.bfloat16).model
    weights = {parameter.untyped_storage().data_ptr() for parameter in llm.parameters()}

    def saved_bytes() -> int:
        saved: dict[int, torch.UntypedStorage] = {}  # holds what it has seen, so that no address is used twice

        def note(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        inputs = torch.randn(1, length, width, dtype=torch.bfloat16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            llm(inputs_embeds=inputs, use_cache=False)
        return sum(storage.nbytes() for address, storage in saved.items() if address not in weights)

    four = saved_bytes()
    llm.layers, llm.config.num_hidden_layers = llm.layers[:2], 2
    assert (four - saved_bytes()) / (2 * length * width) == pytest.approx(ACTIVATION_BYTES, rel=0.1)


def test_adapters_alone_save_a_third_of_the_work_and_most_of_the_states() -> None:
    whole, adapters = (training_flops(VICUNA, 0, 196, 300, adapters_only=only) for only in (False, True))
    assert adapters / whole == pytest.approx(2 / 3, rel=0.01)
    assert training_memory(VICUNA, 0, 0, H200, 1, adapters_only=True).states_gib == pytest.approx(100.4 / 8, rel=0.002)


def test_states_are_shared_out_and_the_frozen_backbone_is_not() -> None:
    one, eight = (training_memory(VICUNA, 0, 10**9, GPUS["a100"], number) for number in (1, 8))
    frozen = 2 * 10**9 / 2**30
    assert eight.states_gib - frozen == pytest.approx((one.states_gib - frozen) / 8)
    assert (one.plain_tokens, one.fewest_gpus) == (0, 2)
    assert training_memory(VICUNA, 0, 10**11, GPUS["a100"], 1).fewest_gpus is None


@pytest.mark.parametrize("kind", ["linear", "gelu-mlp", "fused-gelu-mlp"])
def test_connectors_have_as_many_parameters_as_built(kind: str) -> None:
    built = build_connector(kind, 24, 40, seed=0)
    assert connector_size(kind, (2, 2), 24, 40).parameters == sum(parameter.numel() for parameter in built.parameters())


def test_published_connectors_of_width_384() -> None:
    millions = [connector_size(kind, (14, 14), 384, 4096).parameters / 1e6 for kind in ("gelu-mlp", "fused-gelu-mlp")]
    assert millions == pytest.approx([18.36, 23.67], abs=0.01)


@pytest.mark.parametrize(("name", "width", "inner", "layers"), [("7b", 4096, 11008, 32), ("13b", 5120, 13824, 40)])
def test_the_known_models_are_as_built(name: str, width: int, inner: int, layers: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    known = KNOWN[f"lmsys/vicuna-{name}-v1.5"]
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=1,
        num_attention_heads=width // 128,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    block = sum(parameter.numel() for parameter in model.model.layers.parameters())
    rest = sum(parameter.numel() for parameter in model.parameters()) - block
    assert known.parameters == rest + layers * block
    assert known.multiplied == known.parameters - model.get_input_embeddings().weight.numel()
    assert (known.width, known.layers) == (width, layers)


def test_a_local_model_is_known_by_its_config(tiny_llm: Path) -> None:
    from transformers import AutoModelForCausalLM

    sizes = find_language_model(str(tiny_llm))
    model = AutoModelForCausalLM.from_pretrained(tiny_llm)
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (sizes.width, sizes.layers, sizes.positions) == (32, 1, model.config.max_position_embeddings)
    assert sizes.multiplied == sizes.parameters  # its head is its embedding


def test_an_unknown_model_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        EnvironmentProblem, match=r"llm nobody/nothing-1b: .*hf download nobody/nothing-1b config\.json"
    ):
        find_language_model("nobody/nothing-1b")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EnvironmentProblem, match=r"config\.json: not a causal language model"):
        find_language_model(str(tmp_path))


def test_gpus_are_named_or_described() -> None:
    assert find_gpu("H200") == H200
    assert (find_gpu("71:24").peak_tflops, find_gpu("71:24").memory_gib) == (71.0, 24.0)
    for text in ("h20", "0:24", "71:0", "71", "71:24:1", ""):
        with pytest.raises(SpecError, match="write its peak and memory as"):
            find_gpu(text)
