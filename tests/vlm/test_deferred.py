"""An LLM whose weights are read later is the LLM that transformers loads."""

from pathlib import Path

import pytest
import torch
from tiny_llms import KINDS, byte_tokenizer, llama, neox, of_kind, qwen
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from eyeswap.errors import CheckpointError, SpecError
from eyeswap.vlm.deferred import DeferredWeights, defer_llm
from eyeswap.vlm.llm import load_llm

SHAPE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}


def deep():
    """Five layers, of which the check needs two, and an embedding that has to grow, tied to the output."""
    tokenizer = byte_tokenizer(["<unk>", "<s>", "</s>"], True, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=5, tie_word_embeddings=True, **SHAPE)
    return LlamaForCausalLM(config), tokenizer


MAKERS = {"deep": deep, "llama": llama, "qwen": qwen, "neox": neox}
RENAMED = "neox"  # its files name the output layer otherwise than the model does


def written(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    model, tokenizer = MAKERS[name]() if name in MAKERS else of_kind(name)
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, 5])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def filled(folder: Path) -> torch.nn.Module:
    parts = defer_llm(folder)
    assert parts is not None
    llm, _, _, weights = parts
    assert all(parameter.is_meta for parameter in llm.parameters())
    grown = weights.grown
    weights.fill(llm, lambda name, _: grown[name] if name in grown else weights.read(name).float())
    return llm


def assert_loaded(folder: Path) -> None:
    llm = filled(folder)
    expected, *_ = load_llm(folder)
    torch.testing.assert_close(llm.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert [key for key, _ in llm.named_parameters()] == [key for key, _ in expected.named_parameters()]
    torch.testing.assert_close(dict(llm.named_buffers()), dict(expected.named_buffers()), rtol=0, atol=0)
    assert llm.config.to_dict() == expected.config.to_dict()
    assert llm.generation_config.to_dict() == expected.generation_config.to_dict()
    assert not llm.training


@pytest.mark.parametrize("name", [name for name in [*MAKERS, *KINDS] if name != RENAMED])
def test_it_has_the_weights_and_buffers_that_transformers_loads(tmp_path: Path, name: str):
    assert_loaded(written(tmp_path, name))


def test_weights_of_older_torch_files_and_of_several_files(tmp_path: Path):
    folder = written(tmp_path, "deep")
    state = {key: tensor.bfloat16() for key, tensor in deep()[0].state_dict().items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert_loaded(folder)
    (folder / "pytorch_model.bin").unlink()
    deep()[0].save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert_loaded(folder)


def test_a_checkpoint_in_another_arrangement_is_left_to_transformers(tmp_path: Path):
    assert defer_llm(written(tmp_path, RENAMED)) is None


def test_only_the_first_process_reads_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = written(tmp_path, "deep")
    monkeypatch.setattr(DeferredWeights, "read", lambda *_: pytest.fail("read"))
    parts = defer_llm(folder, is_first=False)
    assert parts is not None
    assert list(parts[-1].grown.values()) == [None]


def test_what_cannot_be_trained_is_refused_as_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = written(tmp_path, "llama")

    def sees_later_tokens(self, hidden, *_args, **_options):
        return hidden + hidden.flip(1)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", sees_later_tokens)
    with pytest.raises(SpecError, match="hidden states depend on later tokens"):
        defer_llm(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        defer_llm(folder)
