"""Adapters learn in place of the LLM, resume like all else, and leave a model like any other."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_run import fresh, losses, recipe, tiny_data

from eyeswap.errors import EnvironmentProblem
from eyeswap.recipe import Execution
from eyeswap.training.loop import train
from eyeswap.training.lora import add_adapters, merged
from eyeswap.training.speed import pass_flops
from eyeswap.vlm.model import VisionLanguageModel

RANK = 2


def adapted(llm: Path) -> VisionLanguageModel:
    model = fresh(llm)
    add_adapters(model.llm, RANK, seed=3)
    return model


def trained(llm: Path, folder: Path, **options: object) -> VisionLanguageModel:
    model = adapted(llm)
    train(model, tiny_data(model), recipe(), folder, "d", **options)
    return model


def logits(model: VisionLanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.llm(input_ids=torch.arange(1, 9)[None]).logits


def test_adapters_start_without_effect_and_are_all_of_the_llm_that_learns(tiny_llm: Path) -> None:
    plain, model = fresh(tiny_llm), adapted(tiny_llm)
    assert logits(model).equal(logits(plain))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in learning if "lora_" in name}
    assert learning - adapters == {f"connector.{name}" for name in model.connector.state_dict()}
    # seven linear layers in the one decoder layer, two factors each; the last matrix has none
    assert len(adapters) == 14
    assert {tuple(model.get_parameter(name).shape)[int("lora_B" in name)] for name in adapters} == {RANK}
    assert pass_flops(model, [10]) < pass_flops(plain, [10])


def test_the_first_factors_come_from_the_seed(tiny_llm: Path) -> None:
    def factors(seed: int) -> torch.Tensor:
        model = fresh(tiny_llm)
        add_adapters(model.llm, RANK, seed)
        return model.llm.model.layers[0].mlp.up_proj.lora_A["default"].weight

    assert factors(1).equal(factors(1))
    assert not factors(1).equal(factors(2))


def test_a_trained_model_is_saved_without_adapters_and_says_the_same(tiny_llm: Path, tmp_path: Path) -> None:
    before = adapted(tiny_llm).llm.lm_head.weight.clone()
    model = trained(tiny_llm, tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert model.llm.lm_head.weight.equal(before)
    model.save_pretrained(tmp_path / "model", state_dict=merged(model.state_dict()))
    model.processor.save_pretrained(tmp_path / "model")
    again = VisionLanguageModel.load(tmp_path / "model")
    assert set(again.state_dict()) == set(fresh(tiny_llm).state_dict())
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(again), logits(fresh(tiny_llm)))


def test_adapters_go_on_from_a_checkpoint(tiny_llm: Path, tmp_path: Path) -> None:
    often = Execution(checkpoint_every_s=0)

    def stop(done: int, note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny_llm, tmp_path / "cut", execution=often, report=stop)
    resumed = trained(tiny_llm, tmp_path / "cut", execution=often)
    whole = trained(tiny_llm, tmp_path / "whole")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert all(value.equal(resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_without_peft_one_line_says_so(tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EnvironmentProblem, match=r"recipe\.lora_rank needs peft: pip install 'eyeswap\[lora\]'"):
        add_adapters(fresh(tiny_llm).llm, RANK, seed=0)
